"""What calls cost: the machine's limits, the peers and DeepServe, in one run.

Every subject runs in processes of its own (`scripts`, `fresh`), one after the other, in rounds whose order alternates:
what else the machine does hits all alike. Machines are shared and noisy, so compare the ratios within one run.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deepserve.bench.fresh_start import SubjectFailed, first_result, running_up
from deepserve.bench.report import rows
from deepserve.bench.subjects import FRESH, HERE, STANDING, Subject, chosen, missing

WORKS = ("warm", "map", "values", "fresh")
TIMEOUT_S = 300.0

Sample = dict[str, Any]
"""work, who, unit, value (the median where one sample is of many calls), and what else was measured with it."""


@dataclass(frozen=True)
class Options:
    """works: of WORKS. rounds: samples of each figure. peers: the folder of their environments, None for no peers."""

    works: tuple[str, ...] = WORKS
    rounds: int = 3
    is_quick: bool = False
    peers: Path | None = None


@dataclass
class Found:
    samples: list[Sample] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Subjects that did not do their work, and why."""


def measure(options: Options, tell: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """All measurements, with what they were taken on. `tell` hears what is being measured."""
    found = Found()
    with TemporaryDirectory(prefix="ds-bench-") as folder, ExitStack() as stack:
        # A copy outside of any package: like the scripts of users, whose modules travel with them.
        scripts = Path(shutil.copytree(HERE / "scripts", Path(folder, "scripts"), ignore=_CACHES))
        fresh = Path(shutil.copytree(HERE / "fresh", Path(folder, "fresh"), ignore=_CACHES))
        standing = [work for work in options.works if work != "fresh"]
        jobs: list[tuple[Subject, Callable[[], list[Sample]]]] = []
        if standing:
            for subject in chosen(STANDING, options.peers):
                jobs.append((subject, _standing_job(subject, scripts, standing, options)))
        if "fresh" in options.works:
            up = stack.enter_context(running_up())
            for subject in chosen(FRESH, options.peers):
                jobs.append((subject, _fresh_job(subject, fresh, up, options)))
        for number in range(options.rounds):
            for subject, job in jobs if number % 2 == 0 else reversed(jobs):
                if subject.who not in found.failed:
                    tell(f"round {number + 1} of {options.rounds}: {subject.who}")
                    _take(subject, job, found)
    return {
        "bench": "calls",
        "taken": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "machine": machine_name(),
        "load_before": os.getloadavg()[0],
        "rounds": options.rounds,
        "rows": rows(found.samples),
        "failed": found.failed,
        "not_measured": missing(options.peers) if options.peers else [],
    }


_CACHES = shutil.ignore_patterns("__pycache__")


def _take(subject: Subject, job: Callable[[], list[Sample]], found: Found) -> None:
    try:
        found.samples += job()
    except SubjectFailed as error:
        found.failed[subject.who] = str(error)


def _standing_job(subject: Subject, scripts: Path, works: list[str], options: Options) -> Callable[[], list[Sample]]:
    command = [subject.python(options.peers or Path()), subject.script, *works, *["--quick"] * options.is_quick]
    return lambda: run_script(command, scripts)


def run_script(command: list[str], folder: Path, variables: Mapping[str, str] = {}) -> list[Sample]:
    """Of a subject, in `folder`: what its last line says. Raises SubjectFailed."""
    environment = {**os.environ, "DEEPSERVE_URL": "embedded", "DEEPSERVE_QUIET": "1", **variables}
    script = command[1]
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise SubjectFailed(f"{script}: not done after {TIMEOUT_S:.0f} s") from None
    if done.returncode:
        raise SubjectFailed(f"{script}: {done.stderr.strip()[-500:] or f'exit code {done.returncode}'}")
    samples: list[Sample] = json.loads(done.stdout.splitlines()[-1])
    return samples


def _fresh_job(subject: Subject, fresh: Path, up: dict[str, str], options: Options) -> Callable[[], list[Sample]]:
    python = subject.python(options.peers or Path())
    embedded = {**os.environ, "DEEPSERVE_URL": "embedded", "DEEPSERVE_QUIET": "1"}
    num_starts = 1 if options.is_quick else 3
    is_known: list[bool] = []

    def job() -> list[Sample]:
        environment = up if subject.needs_up else embedded
        if not is_known:  # compiles what it imports and fills the page cache
            first_result(python, fresh / subject.script, environment)
            is_known.append(True)
        return [
            {
                "work": "fresh",
                "who": subject.who,
                "unit": "s",
                **first_result(python, fresh / subject.script, environment),
            }
            for _ in range(num_starts)
        ]

    return job


def machine_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
