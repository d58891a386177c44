"""What scaling out costs: from one pod to many, beside bare forks, fresh processes and Ray's actors, in one run.

Every subject runs in processes of its own, one after the other, in rounds whose order alternates. Compare the ratios
within one run: machines are shared and noisy.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deepserve.bench.bytecode import compile_packages
from deepserve.bench.calls import run_script
from deepserve.bench.rounds import Job, Sample, report_of, run_rounds
from deepserve.bench.subjects import HERE, OURS, Subject, chosen

WITH = "DEEPSERVE_BENCH_WITH"
"""Environment variable: what the workers have imported besides."""


@dataclass(frozen=True)
class Scaled:
    """most: workers that this subject is asked for, as some take a gigabyte for each ten; most_torch: with torch."""

    subject: Subject
    most: int = 64
    most_torch: int = 0


SCALED = (
    Scaled(Subject("limit: forks", "forks.py"), most_torch=64),
    Scaled(Subject(OURS, "pods.py"), most_torch=64),
    Scaled(Subject("ProcessPoolExecutor", "fresh_processes.py"), most_torch=4),
    Scaled(Subject("Ray", "ray_actors.py", "ray"), most=16),
)
KINDS = ("plain", "torch")
TITLES = {
    **{f"plain {number}": f"1 to {number} pods, all have answered" for number in (4, 16, 64)},
    **{f"torch {number}": f"1 to {number} pods with torch imported" for number in (4, 16, 64)},
}


@dataclass(frozen=True)
class Options:
    """kinds: of KINDS. rounds: samples of each figure. peers: the folder of their environments, None for no peers."""

    kinds: tuple[str, ...] = KINDS
    rounds: int = 3
    is_quick: bool = False
    peers: Path | None = None


def measure(options: Options, tell: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """All measurements, with what they were taken on. `tell` hears what is being measured."""
    compile_packages()
    with TemporaryDirectory(prefix="ds-bench-") as folder:
        ignored = shutil.ignore_patterns("__pycache__")
        scripts = Path(shutil.copytree(HERE / "scale_scripts", Path(folder, "scripts"), ignore=ignored))
        jobs = [
            Job(scaled.subject.who, f"{scaled.subject.who}, {kind}", partial(_samples, scaled, kind, scripts, options))
            for kind in options.kinds
            for scaled in _chosen(kind, options.peers)
        ]
        found = run_rounds(jobs, options.rounds, tell)
    return report_of("scale", found, options.rounds, options.peers, TITLES)


def _chosen(kind: str, peers: Path | None) -> list[Scaled]:
    if kind == "torch" and find_spec("torch") is None:
        return []
    known = {scaled.subject: scaled for scaled in SCALED if kind == "plain" or scaled.most_torch}
    return [known[subject] for subject in chosen(tuple(known), peers)]


def _samples(scaled: Scaled, kind: str, scripts: Path, options: Options) -> list[Sample]:
    most = min(scaled.most if kind == "plain" else scaled.most_torch, 4 if options.is_quick else 64)
    numbers = [str(number) for number in (4, 16, 64) if number <= most]
    command = [scaled.subject.python(options.peers or Path()), scaled.subject.script, *numbers]
    return run_script(command, scripts, {WITH: "torch" if kind == "torch" else ""})
