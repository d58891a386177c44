"""User code's output on disk under `deepserve up`: one bounded file per function."""

from __future__ import annotations

import contextlib
import os
import re
from typing import BinaryIO

from deepserve_controller.service.private_files import private

MAX_FILE_BYTES = 4 << 20
MAX_OPEN_FILES = 64


class LogFiles:
    """`<folder>/<app>/<function>.log`; a full file becomes `.log.1`, which replaces the one before."""

    def __init__(self, folder: str, max_bytes: int = MAX_FILE_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._open: dict[str, BinaryIO] = {}

    def write(self, label: str, data: bytes) -> None:
        """A full disk loses output, never a call."""
        with contextlib.suppress(OSError):
            file = self._open.get(label) or self._open_file(label)
            file.write(data)
            file.flush()
            if file.tell() > self._max_bytes:
                self._close(label)
                os.replace(self.path(label), self.path(label) + ".1")

    def tail(self, label: str, max_bytes: int) -> bytes:
        """What an earlier controller wrote is found too."""
        try:
            with open(self.path(label), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(0, size - max_bytes))
                return file.read(max_bytes)
        except OSError:
            return b""

    def path(self, label: str) -> str:
        parts = [_plain(part) for part in label.split("/", 1)]
        return os.path.join(self._folder, *parts) + ".log"

    def close(self) -> None:
        for label in list(self._open):
            self._close(label)

    def _open_file(self, label: str) -> BinaryIO:
        while len(self._open) >= MAX_OPEN_FILES:
            self._close(next(iter(self._open)))
        path = self.path(label)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        file = self._open[label] = open(path, "ab", opener=private)
        return file

    def _close(self, label: str) -> None:
        with contextlib.suppress(OSError):  # of what a full disk had not taken
            self._open.pop(label).close()


def _plain(name: str) -> str:
    """A file name that stays inside its folder."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:100]
    return plain if plain.strip(".") else "_" + plain
