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
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ..processor import processor_name
from .options import Options
from .processes import SubjectFailedError, run_alone
from .report import limits_of, rows
from .rounds import Found, Job, Sample, run_rounds
from .shapes import SHAPES, Shape, bench_folder, model_folder
from .subjects import OUR_WORKS, SCRIPTS, Conversion, Subject, chosen, missing, python_of
from .turn import Turn

CONVERSION_TIMEOUT_S = 1800.0
LARGE_PARAMETERS = 100_000_000
"""From here on subjects are spared what takes them very long."""

Report = dict[str, Any]
Tell = Callable[[str], None]


def measure(
    options: Options, tell: Tell = lambda text: None, keep: Callable[[Report], None] = lambda report: None
) -> Report:
    """All measurements, with what they were taken on.

    tell: hears what is being measured.  keep: gets the report after each subject, as far as it has come.
    """
    unable = prepare(options, tell)
    jobs = [Job("limits", partial(_limits, options))]
    for model in options.models:
        for subject in chosen(options.who, options.peers):
            label = f"{subject.who}, {model}"
            if label not in unable and _works(subject, SHAPES[model], options):
                jobs.append(Job(label, partial(_samples, subject, SHAPES[model], options)))
    taken_on, start_s = _machine(options), time.monotonic()

    def report(found: Found, is_finished: bool = False) -> Report:
        limits = limits_of(found.samples)
        return {
            **taken_on,
            "finished": is_finished,
            "took_s": round(time.monotonic() - start_s, 1),
            "limits": asdict(limits) if limits else None,
            "rounds": found.num_rounds,
            "turns_s": {label: [round(each, 1) for each in turns] for label, turns in found.turns_s.items()},
            "rows": rows(found.samples, options.is_quick),
            "failed": {**unable, **found.failed},
        }

    found = run_rounds(jobs, options.rounds, options.minutes * 60, tell, lambda found: keep(report(found)))
    return report(found, is_finished=True)


def _machine(options: Options) -> Report:
    """What the figures are of."""
    return {
        "bench": "engine",
        "command": options.command,
        "taken": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "machine": processor_name(),
        "load_before": os.getloadavg()[0],
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


def _limits(options: Options, number: int) -> Iterator[Sample]:
    command = [sys.executable, str(SCRIPTS / "limits.py"), "--model", "", "--precision", "", "--vocab", "0"]
    said = run_alone([*command, *["--quick"] * options.is_quick], options.subject_minutes * 60)
    yield from ({"model": "", "who": "limits", "precision": "", **line} for line in said.lines)


def _samples(subject: Subject, shape: Shape, options: Options, number: int) -> Iterator[Sample]:
    path = _converted(shape, subject.conversion) if subject.conversion else _folder(shape, subject.widened)
    words = ["--model", str(path), "--precision", subject.precision, "--vocab", str(shape.vocab)]
    words += ["--seed", str(number), *subject.options, *["--quick"] * options.is_quick]
    works, python = _works(subject, shape, options), subject.python(options.peers or Path())
    turn = Turn(subject, works, python, words, number, options.subject_minutes * 60)
    labels = {"model": shape.name, "who": subject.who, "precision": subject.precision}
    yield from ({**labels, **sample} for sample in turn.samples())
