"""FolderState: which files a model was read from, so that a folder that changes under an engine is noticed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

METADATA = (
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""What an engine reads beside the weights; not all of them have to be there."""


_READ_BYTES = 64 * 2**10
"""A file of metadata of at most so much is told by its content: to be written anew as it was is no change."""


class FileState(NamedTuple):
    """Another file has another one, and so has one that was written into. The inode tells files apart that an archive
    gave the same time and that have the same size, as two checkpoints of one shape do.  digest: of the content, in
    place of time and inode, where the file is small."""

    size_bytes: int
    mtime_ns: int = 0
    inode: int = 0
    digest: str = ""

    @classmethod
    def of(cls, found: os.stat_result) -> FileState:
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


class FolderState:
    """Files of a model folder, as they were; None where there was none."""

    def __init__(
        self, folder: Path, metadata: Mapping[str, FileState | None], weights: Mapping[str, FileState] | None = None
    ) -> None:
        self.folder = folder
        self._metadata = dict(metadata)
        self._weights = dict(weights or {})

    @classmethod
    def of_metadata(cls, folder: Path) -> FolderState:
        """As it is now. To be taken before the first of them is read."""
        return cls(folder, {name: _metadata_state(folder / name) for name in METADATA})

    def with_weights(self, files: Iterable[tuple[Path, FileState]]) -> FolderState:
        """And the weights' files, as they were when they were opened."""
        return FolderState(self.folder, self._metadata, {path.name: state for path, state in files})

    def changed(self) -> str:
        """Which files are others now, or appeared; empty where none are. One that is gone is not: see `gone`."""
        then, now = self._then(), self._now()
        others = [name for name, state in now.items() if state is not None and state != then[name]]
        return f"{self.folder}: {_listed(others)} changed on disk" if others else ""

    def gone(self) -> str:
        """Which files are no more; empty where all are there."""
        then, now = self._then(), self._now()
        missing = [name for name, state in now.items() if state is None and then[name] is not None]
        return f"{self.folder}: {_listed(missing)} vanished from disk" if missing else ""

    def _then(self) -> dict[str, FileState | None]:
        return {**self._metadata, **self._weights}

    def _now(self) -> dict[str, FileState | None]:
        metadata = {name: _metadata_state(self.folder / name) for name in self._metadata}
        return metadata | {name: weights_state(self.folder / name) for name in self._weights}


def weights_state(path: Path) -> FileState | None:
    """Of a file as it is on disk now; None where there is none."""
    try:
        return FileState.of(os.stat(path))
    except OSError:
        return None


def _metadata_state(path: Path) -> FileState | None:
    state = weights_state(path)
    if state is None or state.size_bytes > _READ_BYTES:
        return state
    try:
        return FileState(state.size_bytes, digest=hashlib.sha256(path.read_bytes()).hexdigest())
    except OSError:
        return None


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
