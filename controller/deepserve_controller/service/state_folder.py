"""A folder that one controller holds at a time."""

from __future__ import annotations

import fcntl
import os
import time

from deepserve_controller.errors import AlreadyRunning, UnsafeFolder
from deepserve_controller.service.folders import make_private

LOOK_AGAIN_S = 0.02


class Claim:
    """A lock in a private folder; the system lets go when its process ends, however it ends."""

    def __init__(self, folder: str, text: str, wait_s: float = 0.0) -> None:
        """wait_s: how long a holder may take that is just ending. Raises AlreadyRunning with `text`, UnsafeFolder."""
        make_private(folder)
        path = os.path.join(folder, "lock")
        try:
            self._fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise UnsafeFolder(f"{path} cannot be used: {error.strerror}") from None
        if not self._lock(time.monotonic() + wait_s):
            holder = os.read(self._fd, 20).decode(errors="replace").strip()
            os.close(self._fd)
            raise AlreadyRunning(text.format(folder=folder, pid=holder or "unknown"))
        os.truncate(self._fd, 0)
        os.write(self._fd, str(os.getpid()).encode())

    def _lock(self, until_s: float) -> bool:
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError:
                if time.monotonic() >= until_s:
                    return False
                time.sleep(LOOK_AGAIN_S)

    def release(self) -> None:
        os.close(self._fd)
