"""`flowserve bench`: limits of the machine, FlowServe and its peers, in one run.

Every subject runs in processes of its own, one after the other, in rounds whose order alternates: what else the machine
does hits all alike. Machines are shared and noisy, so compare the ratios within one run.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..cache_folder import cache_folder
from ..errors import InvalidConfigError
from .processes import SubjectFailedError, run_alone
from .report import limits_of, rows
from .rounds import Job, Sample, run_rounds
from .scripts.measuring import busy_s
from .shapes import SHAPES, Shape, bench_folder, model_folder
from .subjects import OUR_WORKS, SCRIPTS, WORKS, Conversion, Subject, chosen, missing, python_of

CONVERSION_TIMEOUT_S = 1800.0
LARGE_PARAMETERS = 100_000_000
"""From here on subjects are spared what takes them very long."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """models: of SHAPES.  works: of WORKS.  who: parts of subjects' names; none = all.  Raises InvalidConfigError.

    rounds: samples of each figure, at most.  minutes: when further rounds leave out what takes long.
    peers: the folder of their environments, None for no peers.  is_complete: nobody is spared anything.
    """

    models: tuple[str, ...] = ("small", "tiny")
    works: tuple[str, ...] = WORKS
    who: tuple[str, ...] = ()
    rounds: int = 3
    minutes: float = 15.0
    is_quick: bool = False
    is_complete: bool = False
    peers: Path | None = None

    def __post_init__(self) -> None:
        for what, named, known in (("model", self.models, SHAPES), ("work", self.works, WORKS)):
            for name in named:
                if name not in known:
                    raise InvalidConfigError(f"no {what} {name!r}; there are: {', '.join(known)}")
        if self.rounds < 1:
            raise InvalidConfigError(f"rounds {self.rounds}: at least one is needed")
        if not self.minutes > 0:
            raise InvalidConfigError(f"minutes {self.minutes}: no time to measure in")
        list(chosen(self.who, self.peers))


def measure(options: Options, tell: Tell = lambda text: None) -> dict[str, Any]:
    """All measurements, with what they were taken on. `tell` hears what is being measured."""
    unable = prepare(options, tell)
    load_before, start_s = os.getloadavg()[0], time.monotonic()
    jobs = [Job("limits", partial(_limits, options))]
    for model in options.models:
        for subject in chosen(options.who, options.peers):
            label = f"{subject.who}, {model}"
            if label not in unable and _works(subject, SHAPES[model], options):
                jobs.append(Job(label, partial(_samples, subject, SHAPES[model], options)))
    found = run_rounds(jobs, options.rounds, options.minutes * 60, tell)
    limits = limits_of(found.samples)
    return {
        "bench": "engine",
        "command": _command(options),
        "taken": time.strftime("%Y-%m-%d"),
        "took_s": round(time.monotonic() - start_s, 1),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "machine": _machine_name(),
        "load_before": load_before,
        "limits": asdict(limits) if limits else None,
        "rounds": found.num_rounds,
        "rows": rows(found.samples, options.is_quick),
        "failed": {**unable, **found.failed},
        "not_measured": missing(options.peers) if options.peers else [],
    }


def prepare(options: Options, tell: Tell = lambda text: None) -> dict[str, str]:
    """Make the models, and of them what the peers read, as far as it is not there. Gives who has none, and why."""
    unable = {}
    for model in options.models:
        shape = SHAPES[model]
        tell(f"the model {model}")
        model_folder(shape)
        for subject in chosen(options.who, options.peers):
            if subject.widened:
                _folder(shape, True)
            if subject.conversion is None:
                continue
            try:
                _convert(shape, subject.conversion, options.peers or Path(), tell)
            except SubjectFailedError as error:
                unable[f"{subject.who}, {model}"] = str(error)
    return unable


def _convert(shape: Shape, conversion: Conversion, peers: Path, tell: Tell) -> None:
    target = _converted(shape, conversion)
    if target.exists():
        return
    tell(f"{target.name}, converted for a peer")
    source = _folder(shape, conversion.widened)
    partial_target = target.with_name("partial-" + target.name)
    shutil.rmtree(partial_target, ignore_errors=True)
    command = [python_of(conversion.environment, peers), str(SCRIPTS / conversion.script)]
    command += [str(source), str(partial_target), *conversion.arguments]
    if not Path(command[0]).exists():
        raise SubjectFailedError(f"{conversion.environment} is not installed (make bench-engine-peers)")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CONVERSION_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise SubjectFailedError(f"{conversion.script}: not done after {CONVERSION_TIMEOUT_S:.0f} s") from None
    if done.returncode:
        raise SubjectFailedError(f"{conversion.script}: {done.stderr.strip()[-500:]}")
    partial_target.rename(target)


def _folder(shape: Shape, widened: bool) -> Path:
    return model_folder(shape, "float32" if widened and shape.dtype != "float32" else "")


def _converted(shape: Shape, conversion: Conversion) -> Path:
    return bench_folder() / f"{shape.name}-{conversion.name}"


def _works(subject: Subject, shape: Shape, options: Options) -> list[str]:
    if subject.models and shape.name not in subject.models:
        return []
    is_spared = shape.parameters >= LARGE_PARAMETERS and not options.is_complete
    spared = subject.spared if is_spared else ()
    spared += () if subject.is_ours else OUR_WORKS
    return [work for work in options.works if work in subject.works and work not in spared]


def _limits(options: Options, number: int) -> list[Sample]:
    command = [sys.executable, str(SCRIPTS / "limits.py"), "--model", "", "--precision", "", "--vocab", "0"]
    said = run_alone([*command, *["--quick"] * options.is_quick])
    return [{"model": "", "who": "limits", "precision": "", **line} for line in said.lines]


def _samples(subject: Subject, shape: Shape, options: Options, number: int) -> list[Sample]:
    works = _works(subject, shape, options)
    standing = [work for work in works if work not in ("fresh", "sleep")]
    path = _converted(shape, subject.conversion) if subject.conversion else _folder(shape, subject.widened)
    rest = ["--model", str(path), "--precision", subject.precision, "--vocab", str(shape.vocab)]
    rest += ["--seed", str(number), *subject.options, *["--quick"] * options.is_quick]
    command = [subject.python(options.peers or Path()), str(SCRIPTS / subject.script), *rest]
    labels = {"model": shape.name, "who": subject.who, "precision": subject.precision}
    found: list[Sample] = []
    if standing:  # first: it also brings what a fresh process reads into the page cache
        said = run_alone([*command, "--works", ",".join(standing)]).lines[1:]
        found += [line for line in said if line["work"] != "memory" or "sixteen" in standing]
    if "fresh" in works:
        if not standing:
            run_alone(command)
        found += _fresh(command)
        if subject.is_ours:
            found += run_alone([command[0], str(SCRIPTS / "forked.py"), *rest]).lines
            if number == 0 and "torch" not in subject.options:
                found += _packing(command)
    if "sleep" in works:
        found += run_alone([command[0], str(SCRIPTS / "sleeping.py"), *rest]).lines
    return [{**labels, **sample} for sample in found]


def _packing(command: list[str]) -> list[Sample]:
    """Of a process that finds the kernels compiled, and no packed weights."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="bench-", dir=cache_folder()) as folder:
        Path(folder, "kernels").symlink_to(cache_folder() / "kernels")
        fresh, loading, _ = _fresh(command, {"FLOWSERVE_CACHE": folder})
    return [fresh | {"work": "packing"}, loading | {"work": "packing memory"}]


def _fresh(command: list[str], variables: Mapping[str, str] = {}) -> list[Sample]:
    """From the start of the process; and its memory."""
    before_s = busy_s()
    said = run_alone(command, variables=variables)
    [line] = said.lines
    took_s = line["first_token_s"] - said.start_s
    foreign = max(0.0, (line["busy_s"] - before_s - line["cpu_s"]) / took_s)
    return [
        {"work": "fresh", "unit": "s", "value": took_s, "foreign": foreign},
        {"work": "loading", "unit": "MB", "value": line["peak_mb"], "foreign": 0.0},
        {"work": "loaded", "unit": "MB", "value": line["mb"], "foreign": 0.0},
    ]


def _command(options: Options) -> str:
    """With which the run can be repeated."""
    default = Options()
    words = ["flowserve bench"]
    for option, given, usual in (
        ("models", options.models, default.models),
        ("only", options.works, default.works),
        ("who", options.who, default.who),
    ):
        words += [f'--{option} "{",".join(given)}"'] * (given != usual)
    words += [f"--rounds {options.rounds}"] * (options.rounds != default.rounds and not options.is_quick)
    words += [f"--minutes {options.minutes:g}"] * (options.minutes != default.minutes)
    flags = (("--quick", options.is_quick), ("--complete", options.is_complete), ("--peers", options.peers is not None))
    return " ".join([*words, *(name for name, is_given in flags if is_given)])


def _machine_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
