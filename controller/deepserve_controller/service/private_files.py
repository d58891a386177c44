"""Files of the state folder, readable by their user only: the folder is so already, but it may be copied or opened."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from deepserve_controller.errors import UnsafeFolder

OTHERS = 0o077
TREES = ("bundles", "logs")
"""Folders of the state folder with files of their own."""
KEY = "key"
"""Has a rule of its own: one that others could read is refused, see `load_key`."""


def private(path: str, flags: int) -> int:
    """An `opener` of `open`: what it makes is this user's alone."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def touch_private(path: str) -> None:
    """For who opens it by name: there it is, with this mode. Raises OSError."""
    os.close(private(path, os.O_CREAT | os.O_RDWR))


def close_to_others(folder: str) -> None:
    """What earlier versions left readable by others in a state folder. Links are left as they are.

    Raises UnsafeFolder for a file that cannot be closed.
    """
    for path in _files(folder):
        try:
            found = os.lstat(path)
            if stat.S_ISREG(found.st_mode) and found.st_mode & OTHERS:
                os.chmod(path, stat.S_IMODE(found.st_mode) & ~OTHERS)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UnsafeFolder(f"{path} is open to other users, and stays so: {error.strerror}") from None


def _files(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from (entry.path for entry in entries if entry.name != KEY)
    for tree in TREES:
        for parent, _, names in os.walk(os.path.join(folder, tree)):
            yield from (os.path.join(parent, name) for name in names)
