"""Large values of a client that shares no memory with this host: they cross its link piece by piece."""

from __future__ import annotations

import contextlib
import os

import msgspec

from deepserve.protocol.framing import Buffer
from deepserve.protocol.messages import DropValue, FetchValue, Message, PutValue, Value, ValueContent, ValueStored
from deepserve_controller.errors import Refusal
from deepserve_controller.service.recipients import Recipient
from deepserve_controller.service.segments import Segments
from deepserve_controller.service.tokens import new_name

INLINE_BYTES = 1 << 20
"""Up to here a result goes with its message; larger ones wait until they are asked for."""
KINDS = ("u-", "r-")
"""What a client's names begin with: values of calls, and what `put` stores."""
PIECE_BYTES = 4 << 20
"""More is not read for one message."""


class Upload:
    """A value that is on its way here, in a file that no reader can name yet. It is open only while a piece is written:
    one client that begins many must not take the descriptors of all."""

    def __init__(self, folder: str, size_bytes: int) -> None:
        """Raises OSError."""
        self.size_bytes = size_bytes
        self.num_bytes = 0
        self._path = os.path.join(folder, f".upload-{new_name(8)}")
        os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))

    def append(self, piece: bytes) -> None:
        """Raises OSError."""
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
        self.num_bytes += len(piece)

    def publish(self, path: str) -> None:
        """Gives it its name. Raises OSError, also where there is such a file."""
        os.link(self._path, path)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._path)


class RemoteValues:
    """Of one link. What it uploaded and named in no message goes with it."""

    def __init__(self, segments: Segments, link: Recipient) -> None:
        self._segments = segments
        self._link = link
        self._uploads: dict[str, Upload] = {}
        self._unnamed: set[str] = set()

    def take(self, message: Message, payload: bytes) -> bool:
        """False where it is no message about a value. Raises Refusal."""
        match message:
            case PutValue():
                self._put(message, payload)
            case FetchValue():
                self._fetch(message)
            case DropValue():
                self._segments.remove(message.segment)
            case _:
                value: Value | None = getattr(message, "value", None)
                if value is not None and value.segment:
                    self._unnamed.discard(value.segment)
                return False
        return True

    def with_content(self, message: Message, payload: Buffer) -> tuple[Message, Buffer]:
        """What to send instead of a message that names a small segment: the bytes themselves."""
        value: Value | None = getattr(message, "value", None)
        if value is None or not value.segment or value.size_bytes > INLINE_BYTES:
            return message, payload
        content = self._segments.take(value)
        return msgspec.structs.replace(message, value=msgspec.structs.replace(value, segment="")), content

    def close(self) -> None:
        for upload in self._uploads.values():
            upload.close()
        for name in self._unnamed:
            self._segments.remove(name)

    def _put(self, message: PutValue, piece: bytes) -> None:
        name = message.segment
        path = self._segments.path(name)
        if path is None or not name.startswith(KINDS):
            raise Refusal("garbage", f"PutValue under the name {name[:200]!r}")
        upload = self._uploads.get(name)
        try:
            if upload is None:
                if message.offset:
                    return  # what follows a piece there was no room for
                upload = self._uploads[name] = Upload(self._segments.folder, message.size_bytes)
            if message.offset != upload.num_bytes or upload.num_bytes + len(piece) > upload.size_bytes:
                raise Refusal("garbage", f"PutValue {name}: its pieces do not fit together")
            upload.append(piece)
            if upload.num_bytes < upload.size_bytes:
                return
            upload.publish(path)
        except OSError as error:
            self._link.send(ValueStored(name, self._segments.why_not_stored(message.size_bytes, error)))
        else:
            self._unnamed.add(name)
            self._link.send(ValueStored(name))
        if self._uploads.pop(name, None) is not None and upload is not None:
            upload.close()

    def _fetch(self, message: FetchValue) -> None:
        if not (0 < message.size_bytes <= PIECE_BYTES and message.offset >= 0):
            raise Refusal("garbage", f"FetchValue of {message.size_bytes} bytes from {message.offset} on")
        try:
            content = self._segments.read(message.segment, message.offset, message.size_bytes)
        except OSError as error:
            text = f"the value {message.segment[:200]} is gone: {error.strerror}"
            return self._link.send(ValueContent(message.fetch_id, message.offset, text))
        if message.unlink:
            self._segments.remove(message.segment)
        self._link.send(ValueContent(message.fetch_id, message.offset), content)
