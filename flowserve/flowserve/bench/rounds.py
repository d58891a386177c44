"""Rounds: jobs measured again and again in an order that alternates, within the time that there is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .processes import SubjectFailedError

Sample = dict[str, Any]
"""model, work, who, precision, unit, value, and foreign: cores that others used meanwhile."""


class Job(NamedTuple):
    label: str
    measure: Callable[[int], list[Sample]]
    """Gets the round's number."""


@dataclass
class Found:
    samples: list[Sample] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Jobs that did not do their work, and why; they are not asked again."""
    num_rounds: dict[str, int] = field(default_factory=dict)
    """Of each job."""


def run_rounds(
    jobs: list[Job],
    rounds: int,
    limit_s: float,
    tell: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Found:
    """Every job once; then further rounds of as many as fit into the time left, the slowest left out first."""
    found, took_s = Found(), dict[str, float]()
    end_s = clock() + limit_s
    for number in range(rounds):
        order = [job for job in (jobs if number % 2 == 0 else jobs[::-1]) if job.label not in found.failed]
        if number:
            fitting = _fitting({job.label: took_s[job.label] for job in order}, end_s - clock())
            order = [job for job in order if job.label in fitting]
        for job in order:
            start_s = clock()
            tell(f"round {number + 1} of {rounds}: {job.label}")
            try:
                found.samples += job.measure(number)
                found.num_rounds[job.label] = number + 1
            except SubjectFailedError as error:
                found.failed[job.label] = str(error)
            took_s[job.label] = clock() - start_s
    return found


def _fitting(took_s: dict[str, float], left_s: float) -> set[str]:
    fitting = set()
    for label in sorted(took_s, key=lambda label: took_s[label]):
        left_s -= took_s[label]
        if left_s < 0:
            break
        fitting.add(label)
    return fitting
