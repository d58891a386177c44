"""Code bundles on this host: fetched once, unpacked safely, shared by all pods."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

import msgspec

from deepserve.protocol.digest import sha256

DIGEST_CHARACTERS = 40
MAX_UNPACKED_BYTES = 1 << 30
MAX_FILES = 50_000
MAX_DIGEST_CHARACTERS = 128
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")

Fetch = Callable[[str], bytes]
"""Bundle content by digest. Raises BundleError where the controller does not have it."""


class BundleError(Exception):
    """The code could not be fetched, or is not what a bundle may be."""


class BundleStore:
    """`folder` is shared with other pods of the host: a bundle appears there whole or not at all."""

    def __init__(self, folder: str, fetch: Fetch) -> None:
        self._folder = folder
        self._fetch = fetch

    def files(self, digest: str) -> str:
        """The folder that holds the bundle's files."""
        check_digest(digest)
        target = os.path.join(self._folder, digest)
        if not os.path.isdir(target):
            self._unpack(self._fetch(digest), digest, target)
        return target

    def dump(self, digest: str) -> bytes:
        """The bytes of a pickled bundle, which is named by them."""
        check_digest(digest)
        content = self._fetch(digest)
        check_content(digest, sha256(content).hexdigest())
        return content

    def _unpack(self, content: bytes, digest: str, target: str) -> None:
        """Unpacks beside the target, then renames: of several pods at once one wins and all find the same files."""
        files = unpack(content, digest)
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        unfinished = os.path.join(self._folder, f".{digest}.{os.getpid()}.{os.urandom(4).hex()}")
        try:
            write_files(files, unfinished)
            os.rename(unfinished, target)
        except OSError:
            if not os.path.isdir(target):
                raise
        finally:
            if os.path.isdir(unfinished):
                import shutil

                shutil.rmtree(unfinished, ignore_errors=True)


def check_digest(digest: str) -> None:
    is_plain = digest[:1] in _PLAIN and all(letter in _PLAIN or letter in "_.-" for letter in digest)
    if not digest or not is_plain or len(digest) > MAX_DIGEST_CHARACTERS:
        raise BundleError(f"{digest!r} is no bundle digest")


def check_content(digest: str, found: str) -> None:
    if found[:DIGEST_CHARACTERS] != digest:
        raise BundleError(f"the bundle that came as {digest} holds something else ({found[:DIGEST_CHARACTERS]})")


def unpack(content: bytes, digest: str) -> dict[str, bytes]:
    """The files by their names within the bundle. Raises BundleError where it is not what `digest` says."""
    try:
        files = msgspec.msgpack.decode(content, type=dict[str, bytes])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"the bundle cannot be read: {error}") from error
    check_names(files)
    check_content(digest, hash_of(files))
    return files


def write_files(files: dict[str, bytes], folder: str) -> None:
    os.mkdir(folder, 0o700)
    for name, content in files.items():
        path = os.path.join(folder, name)
        with suppress(FileExistsError):
            os.makedirs(os.path.dirname(path), mode=0o700)
        with open(path, "xb") as file:
            file.write(content)


def hash_of(files: dict[str, bytes]) -> str:
    """What the SDK names a bundle of files by: their names in order, each with the hash of what it holds."""
    found = sha256()
    for name in sorted(files):
        found.update(f"{name}\0{sha256(files[name]).hexdigest()}\n".encode())
    return found.hexdigest()


def check_names(files: dict[str, bytes]) -> None:
    """Raises BundleError for names that lead out of the folder, and for what would fill the disk."""
    if len(files) > MAX_FILES:
        raise BundleError(f"the bundle has {len(files)} files (limit {MAX_FILES})")
    for name in files:
        is_plain = all(part not in ("", ".", "..") for part in name.split("/"))
        if not is_plain or "\\" in name or "\0" in name:
            raise BundleError(f"the bundle holds {name!r}, which leads out of its folder")
    total_bytes = sum(len(content) for content in files.values())
    if total_bytes > MAX_UNPACKED_BYTES:
        raise BundleError(f"the bundle unpacks to {total_bytes} bytes (limit {MAX_UNPACKED_BYTES})")
