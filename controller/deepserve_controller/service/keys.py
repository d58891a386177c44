"""The key of the HTTP port: made at the first start, readable by its user only."""

from __future__ import annotations

import os
import secrets
import stat

from deepserve_controller.errors import UnsafeFolder

MIN_KEY_CHARS = 32


def load_key(state_folder: str) -> str:
    """Raises UnsafeFolder where others can read the file, or it holds no key."""
    path = os.path.join(state_folder, "key")
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return _read_key(path)
    key = secrets.token_urlsafe(32)
    with open(fd, "w") as file:
        file.write(key + "\n")
    return key


def _read_key(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise UnsafeFolder(f"{path} cannot be read: {error.strerror}") from None
    with open(fd) as file:
        found = os.fstat(fd)
        if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise UnsafeFolder(f"{path} can be read by other users: remove it (a new key is made) or chmod 600 it")
        key = file.read(1000).strip()
    if len(key) < MIN_KEY_CHARS:
        raise UnsafeFolder(f"{path} holds no key: remove it, a new one is made")
    return key
