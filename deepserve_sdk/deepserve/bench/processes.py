"""Processes as the benchmarks see them: whose they are, what memory they take, what processor time they used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MARK = "DEEPSERVE_BENCH_MARK"
"""An environment variable: its value is inherited by all that a script starts, also by what leaves its process tree."""


def pss_mb(pid: int) -> float:
    """Its share of memory in megabytes: what it has alone, and of shared pages its part. 0 when it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    line = next((line for line in text.splitlines() if line.startswith("Pss:")), "Pss: 0 kB")
    return int(line.split()[1]) * 1024 / 1e6


def descendants(pid: int) -> Iterator[int]:
    """Children first, then theirs."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                after_name = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(after_name[1]), []).append(int(folder.name))
    waiting = [pid]
    while waiting:
        found = children.get(waiting.pop(0), [])
        yield from found
        waiting += found


class Used(NamedTuple):
    """Of one thread, or of a sum of them. user_s and system_s come in ticks of 10 ms, run_s is exact."""

    run_s: float = 0.0
    user_s: float = 0.0
    system_s: float = 0.0
    num_waits: int = 0
    """Times that it gave the processor away to wait for something."""
    num_preempted: int = 0

    def plus(self, other: Used) -> Used:
        return Used._make(mine + its for mine, its in zip(self, other, strict=True))

    def minus(self, other: Used) -> Used:
        return Used._make(mine - its for mine, its in zip(self, other, strict=True))


def used_by_threads(pid: int) -> dict[int, Used]:
    """By thread id; the main thread's is `pid`."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/task"):
        try:
            found[int(name)] = _used_by_thread(Path(f"/proc/{pid}/task/{name}"))
        except OSError:
            continue
    return found


def _used_by_thread(folder: Path) -> Used:
    ticks_s = 1 / os.sysconf("SC_CLK_TCK")
    after_name = (folder / "stat").read_text().rpartition(")")[2].split()
    user_s, system_s = int(after_name[11]) * ticks_s, int(after_name[12]) * ticks_s
    try:
        run_s = int((folder / "schedstat").read_text().split()[0]) / 1e9
    except OSError:  # a kernel without it
        run_s = user_s + system_s
    switches = {"voluntary_ctxt_switches": 0, "nonvoluntary_ctxt_switches": 0}
    for line in (folder / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in switches:
            switches[name] = int(value)
    return Used(run_s, user_s, system_s, switches["voluntary_ctxt_switches"], switches["nonvoluntary_ctxt_switches"])
