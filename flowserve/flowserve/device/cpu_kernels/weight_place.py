"""Where the cache folder has a model's flat files, one for each way to pack it, and what of them is outdated."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...cache_folder import cache_folder
from ...models.plan import DecoderPlan
from .library import KernelLibrary
from .packing import PackedTensor

MAGIC = b"FLOWSRV5"
_SOURCE = "source"
"""Names the model folder of a place in the cache."""


def path_of(plan: DecoderPlan, tensors: list[PackedTensor], library: KernelLibrary) -> Path:
    """Of the flat file, whether it is there or not."""
    return cache_folder() / "weights" / _place_of(plan) / f"{_fingerprint(plan, tensors, library)}.flat"


def note_source(path: Path, plan: DecoderPlan) -> None:
    """What lies beside `path` is of this model folder."""
    (path.parent / _SOURCE).write_text(str(_folder_of(plan)))


def drop_outdated(path: Path) -> None:
    """What is beside `path` of an earlier state of the checkpoint, and what was packed for folders that are gone."""
    _drop_older(path)
    _drop_orphans(path.parent.parent)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _place_of(plan: DecoderPlan) -> str:
    """One folder for each model folder, readable by its owner."""
    folder = _folder_of(plan)
    return f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"


def _folder_of(plan: DecoderPlan) -> Path:
    return plan.embedding.parts[0].tensor.file.path.parent.resolve()


def _fingerprint(plan: DecoderPlan, tensors: list[PackedTensor], library: KernelLibrary) -> str:
    """The parts of the checkpoint it was made of, and how: two engines that agree on them share the file."""
    files = [(path.name, *state) for path, state in sorted(plan.files().items())]  # a changed one is another
    state = hashlib.sha256(repr(files).encode()).hexdigest()[:12]
    made_of = [(p.name, p.shape, [(q.tensor.name, q.start, q.end) for q in p.parts]) for p in plan.parameters()]
    layout = [(t.name, None if t.kind is None else int(t.kind), t.n, t.k) for t in tensors]
    how = hashlib.sha256(repr((MAGIC, library.unit, made_of, layout)).encode()).hexdigest()[:12]
    return f"{state}-{how}"


def _drop_older(path: Path) -> None:
    """Files of an earlier state of the checkpoint, measurements of its engines too, and what killed processes left. Who
    maps one keeps it."""
    state = path.name.split("-")[0]
    for other in path.parent.iterdir():
        outdated = other.suffix in (".flat", ".json") and not other.name.startswith(state)
        abandoned = other.suffix.startswith(".partial-") and not _is_alive(int(other.suffix[9:]))
        if outdated or abandoned:
            other.unlink(missing_ok=True)


def _drop_orphans(weights: Path) -> None:
    """What was packed for model folders that are gone."""
    for place in weights.iterdir():
        source = place / _SOURCE
        if source.is_file() and not Path(source.read_text()).is_dir():
            shutil.rmtree(place, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
