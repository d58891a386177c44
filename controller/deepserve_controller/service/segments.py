"""Shared-memory segments on their way through: removed, doubled for a second reader, read for the HTTP port."""

from __future__ import annotations

import contextlib
import os
import re
import secrets

import msgspec

from deepserve.protocol.messages import Value

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


class Segments:
    def __init__(self, folder: str) -> None:
        self.folder = folder

    def remove(self, name: str) -> None:
        """A name that is no plain file name came from a confused peer and is left alone."""
        if name and _PLAIN_NAME.fullmatch(name):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.folder, name))

    def remove_refs_of(self, client_id: str) -> None:
        """What a client stored by `put` (the SDK's names for it begin so)."""
        if not _PLAIN_NAME.fullmatch(client_id):
            return
        with contextlib.suppress(OSError):
            for name in os.listdir(self.folder):
                if name.startswith(f"r-{client_id}-"):
                    self.remove(name)

    def double(self, value: Value) -> Value:
        """The same bytes under another name, for a reader that unlinks what it has read."""
        if not value.segment or not _PLAIN_NAME.fullmatch(value.segment):
            return value
        name = f"c-{os.getpid()}-{secrets.token_hex(8)}"
        with contextlib.suppress(OSError):
            os.link(os.path.join(self.folder, value.segment), os.path.join(self.folder, name))
        return msgspec.structs.replace(value, segment=name)

    def take(self, value: Value) -> bytes:
        """The bytes of a result for a caller outside this machine's processes; the segment is removed."""
        if not value.segment or not _PLAIN_NAME.fullmatch(value.segment):
            return b""
        try:
            with open(os.path.join(self.folder, value.segment), "rb") as file:
                return file.read()
        except OSError:
            return b""
        finally:
            self.remove(value.segment)
