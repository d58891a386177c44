"""Rounds: jobs measured again and again in an order that alternates, within the time that there is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .processes import SubjectFailedError

Sample = dict[str, Any]
"""model, work, who, precision, unit, value, and foreign: cores that others used meanwhile."""


class Job(NamedTuple):
    label: str
    measure: Callable[[int], Iterator[Sample]]
    """Gets the round's number. May raise SubjectFailedError after some samples, which count."""


@dataclass
class Found:
    samples: list[Sample] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Jobs that did not do their work, and why; they are not asked again."""
    num_rounds: dict[str, int] = field(default_factory=dict)
    """Of each job."""
    turns_s: dict[str, list[float]] = field(default_factory=dict)
    """How long each job took, round by round."""


def run_rounds(
    jobs: list[Job],
    rounds: int,
    limit_s: float,
    tell: Callable[[str], None],
    keep: Callable[[Found], None] = lambda found: None,
    clock: Callable[[], float] = time.monotonic,
) -> Found:
    """Every job once; then further rounds of as many as fit into the time left, the slowest left out first.

    keep: gets what was found so far, after each job.
    """
    found = Found()
    end_s = clock() + limit_s
    for number in range(rounds):
        order = [job for job in (jobs if number % 2 == 0 else jobs[::-1]) if job.label not in found.failed]
        if number:
            fitting = _fitting({job.label: found.turns_s[job.label][-1] for job in order}, end_s - clock())
            order = [job for job in order if job.label in fitting]
        for job in order:
            start_s = clock()
            tell(f"round {number + 1} of {rounds}: {job.label}")
            try:
                for sample in job.measure(number):
                    found.samples.append(sample)
                found.num_rounds[job.label] = number + 1
            except SubjectFailedError as error:
                found.failed[job.label] = str(error)
            found.turns_s.setdefault(job.label, []).append(clock() - start_s)
            keep(found)
    return found


def _fitting(took_s: dict[str, float], left_s: float) -> set[str]:
    fitting = set()
    for label in sorted(took_s, key=lambda label: took_s[label]):
        left_s -= took_s[label]
        if left_s < 0:
            break
        fitting.add(label)
    return fitting
