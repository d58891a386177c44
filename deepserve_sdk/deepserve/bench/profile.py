"""`deepserve bench calls --profile`: where a warm call's time goes, by process and thread."""

from __future__ import annotations

import os
import time
from statistics import median
from typing import Any

import deepserve
from deepserve.bench import processes
from deepserve.bench.processes import Used

WARM_UP_CALLS = 300

app = deepserve.App("bench-profile")


@app.function(max_pods=1)
def noop(x: int) -> int:
    """For a negative number the pod's process id."""
    return x if x >= 0 else os.getpid()


def profile(num_calls: int = 5000) -> dict[str, Any]:
    """Of warm no-op calls, one after the other: processor time, and how often each thread waited, for each call.

    Needs an embedded controller. Microseconds a call; what the client's wall clock has beyond the sum of run times is
    waiting for the kernel to wake somebody, or for other programs.
    """
    for i in range(WARM_UP_CALLS):
        noop.remote(i)
    roles = _roles(noop.remote(-1))
    before = {role: processes.used_by_threads(pid) for role, pid in roles.items()}
    took_us = []
    for i in range(num_calls):
        start_s = time.perf_counter()
        noop.remote(i)
        took_us.append((time.perf_counter() - start_s) * 1e6)
    rows = []
    for role, pid in roles.items():
        after = processes.used_by_threads(pid)
        total = Used()
        threads = []
        for thread, used in sorted(after.items(), key=lambda item: item[0] != pid):
            spent = used.minus(before[role].get(thread, Used()))
            total = total.plus(spent)
            if spent.run_s * 1e6 / num_calls >= 0.05:
                threads.append(_per_call(role, "main" if thread == pid else f"thread {thread}", spent, num_calls))
        rows.append(_per_call(role, "", total, num_calls))
        if len(threads) > 1:
            rows += threads
    return {
        "bench": "profile",
        "num_calls": num_calls,
        "p50_us": median(took_us),
        "mean_us": sum(took_us) / num_calls,
        "run_us": sum(row["run_us"] for row in rows if not row["thread"]),
        "rows": rows,
    }


def _roles(pod: int) -> dict[str, int]:
    """Process ids: this one, its controller, the pod that takes the calls, and what stands beside them."""
    below = list(processes.descendants(os.getpid()))
    controller = next(pid for pid in below if pod in processes.descendants(pid))
    others = [pid for pid in below if pid not in (pod, controller)]
    named = {f"other {number}": pid for number, pid in enumerate(others, 1)}
    return {"client": os.getpid(), "controller": controller, "pod": pod, **named}


def _per_call(role: str, thread: str, used: Used, num_calls: int) -> dict[str, Any]:
    return {
        "process": role,
        "thread": thread,
        "run_us": used.run_s * 1e6 / num_calls,
        "user_us": used.user_s * 1e6 / num_calls,
        "system_us": used.system_s * 1e6 / num_calls,
        "waits": used.num_waits / num_calls,
        "preempted": used.num_preempted / num_calls,
    }


COLUMNS = ("process", "thread", "run µs", "user µs", "system µs", "waits", "preempted")


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        "" if row["thread"] else row["process"],
        row["thread"],
        *(f"{row[name]:.1f}" for name in ("run_us", "user_us", "system_us")),
        *(f"{row[name]:.2f}" for name in ("waits", "preempted")),
    )
