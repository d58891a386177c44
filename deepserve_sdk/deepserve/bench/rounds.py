"""Rounds: jobs measured again and again in an order that alternates, and the report of what was found."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from deepserve.bench.fresh_start import SubjectFailed
from deepserve.bench.report import TITLES, rows
from deepserve.bench.subjects import missing

Sample = dict[str, Any]
"""work, who, unit, value (the median where one sample is of many calls), and what else was measured with it."""


class Job(NamedTuple):
    """who: the subject; label: what is told while it is measured."""

    who: str
    label: str
    measure: Callable[[], list[Sample]]


@dataclass
class Found:
    samples: list[Sample] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Subjects that did not do their work, and why; they are not asked again."""


def run_rounds(jobs: list[Job], rounds: int, tell: Callable[[str], None]) -> Found:
    found = Found()
    for number in range(rounds):
        for job in jobs if number % 2 == 0 else reversed(jobs):
            if job.who in found.failed:
                continue
            tell(f"round {number + 1} of {rounds}: {job.label}")
            try:
                found.samples += job.measure()
            except SubjectFailed as error:
                found.failed[job.who] = str(error)
    return found


def report_of(
    bench: str, found: Found, rounds: int, peers: Path | None, titles: Mapping[str, str] = TITLES
) -> dict[str, Any]:
    """With what it was taken on. peers: as in the options of both benchmarks."""
    return {
        "bench": bench,
        "taken": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "machine": machine_name(),
        "load_before": os.getloadavg()[0],
        "rounds": rounds,
        "rows": rows(found.samples, titles),
        "failed": found.failed,
        "not_measured": missing(peers) if peers else [],
    }


def machine_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
