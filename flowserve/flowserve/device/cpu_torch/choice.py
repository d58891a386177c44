"""Which kernel multiplies by a matrix of which shape on this machine: measured once, kept in the cache folder."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from ...cache_folder import cache_folder
from .matrices import KERNELS

Shape = tuple[int, int]
"""Rows and columns of a weight: outputs and inputs."""

MEASURED_FROM_ELEMENTS = 4_000_000
"""Weights of a model below which nothing is measured: a step is then so short that calls decide, not products."""

_PLAIN_BELOW_ELEMENTS = 500_000  # oneDNN takes 20 microseconds for a call
_TIMEOUT_S = 20.0

_logger = logging.getLogger("flowserve")


@dataclass(frozen=True, slots=True)
class Choice:
    """A name in `KERNELS` of the weight's kind. careful: see `Matrix`."""

    kernel: str
    careful: bool = False


def choose(kind: str, shapes: Collection[Shape], num_threads: int) -> dict[Shape, Choice]:
    """A kernel for each shape. What was never measured on this machine is measured now, in a process of its own.

    Where that cannot be done, the choice is a fixed order of what computes rightly, with a warning.
    """
    if sum(num_rows * num_columns for num_rows, num_columns in shapes) < MEASURED_FROM_ELEMENTS:
        return {shape: fixed_choice(kind, shape) for shape in shapes}
    path = cache_folder() / "kernel-choice" / f"{_machine(num_threads)}.json"
    known = _read(path, kind)
    missing = sorted(set(shapes) - known.keys())
    if missing:
        try:
            found = _measure(kind, missing, num_threads)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            _logger.warning("the kernels could not be measured, taking a fixed order: %s", error)
            found = {shape: fixed_choice(kind, shape) for shape in missing}
        else:
            _write(path, kind, found)
        known |= found
    return {shape: known[shape] for shape in shapes}


def fixed_choice(kind: str, shape: Shape) -> Choice:
    """The first kernel that computes rightly on a small matrix; of float32 the plain one for small ones."""
    if kind == "float32" and shape[0] * shape[1] < _PLAIN_BELOW_ELEMENTS:
        return Choice("plain")
    if kind == "int4" and (shape[1] % 32 or shape[0] % 16):  # what torch's packing asks for
        return Choice("widened")
    return _first_right(kind)


@cache
def _first_right(kind: str) -> Choice:
    from .self_test import RandomWeight, candidates

    return next(choice for choice, _ in candidates(kind, RandomWeight(64, 128)))


def _measure(kind: str, shapes: Collection[Shape], num_threads: int) -> dict[Shape, Choice]:
    """Raises OSError, SubprocessError or ValueError where the process could not do it."""
    if not sys.executable:
        raise OSError("this process knows no Python to start")
    root = str(Path(__file__).resolve().parents[3])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    names = [f"{num_rows}x{num_columns}" for num_rows, num_columns in shapes]
    command = [sys.executable, "-m", "flowserve.device.cpu_torch.self_test", kind, str(num_threads), *names]
    # Beside other work threads that spin while they wait would take minutes for what takes half a second.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_WAIT_POLICY": "passive"}
    _logger.info("measuring the kernels for %d shapes of %s weights (once on this machine)", len(shapes), kind)
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, env=environment)
    if done.returncode != 0:
        raise ValueError(done.stderr.strip()[-300:] or f"exit status {done.returncode}")
    found = _choices(json.loads(done.stdout), kind)
    if missing := set(shapes) - found.keys():
        raise ValueError(f"no kernel for {kind} weights of {sorted(missing)}")
    return found


def _choices(entries: object, kind: str) -> dict[Shape, Choice]:
    """Entries like "4096x1024": ["fbgemm", true]; what is none of ours is left out."""
    choices: dict[Shape, Choice] = {}
    for name, value in entries.items() if isinstance(entries, dict) else ():
        match name.split("x"), value:
            case [rows, columns], [str(kernel), bool(careful)] if kernel in KERNELS[kind]:
                choices[int(rows), int(columns)] = Choice(kernel, careful)
    return choices


def _read(path: Path, kind: str) -> dict[Shape, Choice]:
    try:
        return _choices(json.loads(path.read_text())[kind], kind)
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or a damaged one: measured anew
        return {}


def _write(path: Path, kind: str, found: dict[Shape, Choice]) -> None:
    """Add to the file. Two that write at once may lose the other's, which is then measured again."""
    kinds = {each: {**_read(path, each), **(found if each == kind else {})} for each in KERNELS}
    content = {
        each: {f"{n}x{k}": [choice.kernel, choice.careful] for (n, k), choice in sorted(choices.items())}
        for each, choices in kinds.items()
    }
    partial = path.with_suffix(f".partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content, indent=1))
        partial.replace(path)
    except OSError as error:
        _logger.warning("the choice of kernels cannot be kept in %s: %s", path.parent, error)


@cache
def _machine(num_threads: int) -> str:
    """Of all that a measurement depends on: processor, torch, threads, and the kernels themselves."""
    digest = hashlib.sha256()
    for name in ("matrices.py", "quantization.py", "self_test.py"):
        digest.update((Path(__file__).parent / name).read_bytes())
    capability = torch.backends.cpu.get_cpu_capability()
    digest.update(repr((_processor(), torch.__version__, capability, num_threads)).encode())
    return digest.hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("model name", "CPU part"))), platform.processor())
