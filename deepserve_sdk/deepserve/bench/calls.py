"""What calls cost: the machine's limits, the peers and DeepServe, in one run.

Every subject runs in processes of its own (`scripts`, `fresh`), one after the other, in rounds whose order alternates:
what else the machine does hits all alike. Machines are shared and noisy, so compare the ratios within one run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deepserve.bench.bytecode import compile_packages
from deepserve.bench.fresh_start import SubjectFailed, first_result, running_up
from deepserve.bench.rounds import Job, Sample, report_of, run_rounds
from deepserve.bench.subjects import FRESH, HERE, STANDING, Subject, chosen

WORKS = ("warm", "map", "values", "fresh")
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Options:
    """works: of WORKS. rounds: samples of each figure. peers: the folder of their environments, None for no peers."""

    works: tuple[str, ...] = WORKS
    rounds: int = 3
    is_quick: bool = False
    peers: Path | None = None


def measure(options: Options, tell: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """All measurements, with what they were taken on. `tell` hears what is being measured."""
    compile_packages()
    with TemporaryDirectory(prefix="ds-bench-") as folder, ExitStack() as stack:
        # A copy outside of any package: like the scripts of users, whose modules travel with them.
        scripts = Path(shutil.copytree(HERE / "scripts", Path(folder, "scripts"), ignore=_CACHES))
        fresh = Path(shutil.copytree(HERE / "fresh", Path(folder, "fresh"), ignore=_CACHES))
        standing = [work for work in options.works if work != "fresh"]
        jobs: list[Job] = []
        if standing:
            for subject in chosen(STANDING, options.peers):
                jobs.append(Job(subject.who, subject.who, _standing_job(subject, scripts, standing, options)))
        if "fresh" in options.works:
            up = stack.enter_context(running_up())
            for subject in chosen(FRESH, options.peers):
                jobs.append(Job(subject.who, subject.who, _fresh_job(subject, fresh, up, options)))
        found = run_rounds(jobs, options.rounds, tell)
    return report_of("calls", found, options.rounds, options.peers)


_CACHES = shutil.ignore_patterns("__pycache__")


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
