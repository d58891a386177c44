"""KeptFile: what a controller has learned, as a file of its state folder that a later one reads."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import Generic, TypeVar

import msgspec

from deepserve_controller.service.private_files import private

MAX_BYTES = 4 << 20


class Kept(msgspec.Struct, kw_only=True):
    """Base of what such a file holds. version: of its format. written_at: Unix time."""

    version: int
    written_at: float = msgspec.field(default_factory=time.time)

    @property
    def age_s(self) -> float:
        """0 where the clock was set back."""
        return max(0.0, time.time() - self.written_at)


class _Head(msgspec.Struct):
    version: int


K = TypeVar("K", bound=Kept)


class KeptFile(Generic[K]):
    """JSON, written whole or not at all. One that cannot be read or written costs what it holds alone: a line on
    stderr says so."""

    def __init__(self, path: str, kind: type[K], version: int, loss: str) -> None:
        """`version`: the only one that is read. `loss`: what it means that it cannot be."""
        self.path = path
        self._kind = kind
        self._version = version
        self._loss = loss

    def read(self) -> K | None:
        """What there is; None where there is nothing, or nothing to trust."""
        try:
            with open(self.path, "rb") as file:
                data = file.read(MAX_BYTES)
            version = msgspec.json.decode(data, type=_Head).version
            if version == self._version:
                return msgspec.json.decode(data, type=self._kind)
            self.complain(f"has format {version}, this version of DeepServe reads {self._version}")
        except FileNotFoundError:
            pass
        except OSError as error:
            self.complain(f"cannot be read: {error.strerror}")
        except (msgspec.DecodeError, RecursionError) as error:
            self.complain(f"cannot be read: {error}")
        return None

    def write(self, kept: K) -> bool:
        """Whether it is there now."""
        unfinished = f"{self.path}.new"
        try:
            with open(unfinished, "wb", opener=private) as file:
                file.write(msgspec.json.encode(kept))
            os.replace(unfinished, self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(unfinished)
            self.complain(f"cannot be written: {error.strerror}")
            return False
        return True

    def complain(self, text: str) -> None:
        print(f"deepserve: {self.path} {text}; {self._loss}", file=sys.stderr)
