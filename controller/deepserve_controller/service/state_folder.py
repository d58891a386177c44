"""A folder that one controller holds at a time."""

from __future__ import annotations

import fcntl
import os

from deepserve_controller.errors import AlreadyRunning
from deepserve_controller.service.folders import make_private


class Claim:
    """A lock in a private folder; the system lets go when its process ends, however it ends."""

    def __init__(self, folder: str, text: str) -> None:
        """Raises AlreadyRunning with `text`, UnsafeFolder."""
        make_private(folder)
        self._fd = os.open(os.path.join(folder, "lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._fd, 20).decode(errors="replace").strip()
            os.close(self._fd)
            raise AlreadyRunning(text.format(folder=folder, pid=holder or "unknown")) from None
        os.truncate(self._fd, 0)
        os.write(self._fd, str(os.getpid()).encode())

    def release(self) -> None:
        os.close(self._fd)
