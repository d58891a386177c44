"""Code bundles on this host: fetched once, unpacked safely, shared by all pods."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

DIGEST_CHARACTERS = 40
MAX_UNPACKED_BYTES = 1 << 30
MAX_MEMBERS = 50_000
_DIGEST = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")

Fetch = Callable[[str], bytes]
"""Bundle content by digest. Raises BundleError where the controller does not have it."""


class BundleError(Exception):
    """The code could not be fetched, or is not what a bundle may be."""


class BundleStore:
    """`folder` is shared with other pods of the host: a bundle appears there whole or not at all."""

    def __init__(self, folder: Path, fetch: Fetch) -> None:
        self._folder = folder
        self._fetch = fetch

    def files(self, digest: str) -> Path:
        """The folder that holds the bundle's files."""
        check_digest(digest)
        target = self._folder / digest
        if not target.is_dir():
            self._unpack(self._fetch(digest), target)
        return target

    def dump(self, digest: str) -> bytes:
        """The bytes of a pickled bundle, which is named by them."""
        check_digest(digest)
        content = self._fetch(digest)
        check_content(digest, hashlib.sha256(content).hexdigest())
        return content

    def _unpack(self, content: bytes, target: Path) -> None:
        """Unpacks beside the target, then renames: of several pods at once one wins and all find the same files."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=self._folder))
        try:
            unpack(content, unfinished, target.name)
            os.rename(unfinished, target)
        except OSError:
            if not target.is_dir():
                raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def check_digest(digest: str) -> None:
    if not _DIGEST.fullmatch(digest):
        raise BundleError(f"{digest!r} is no bundle digest")


def check_content(digest: str, found: str) -> None:
    if found[:DIGEST_CHARACTERS] != digest:
        raise BundleError(f"the bundle that came as {digest} holds something else ({found[:DIGEST_CHARACTERS]})")


def unpack(content: bytes, folder: Path, digest: str) -> None:
    """Writes the files of a tar under `folder`; where it is not what `digest` says, nothing is written."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:*") as tar:
            members = tar.getmembers()
            check_members(members)
            check_content(digest, hash_of(tar, members))
            for member in members:
                tar.extract(member, folder, set_attrs=False, filter="data")
    except (tarfile.TarError, EOFError) as error:
        raise BundleError(f"the bundle is no readable tar: {error}") from error


def hash_of(tar: tarfile.TarFile, members: list[tarfile.TarInfo]) -> str:
    """What the SDK names a bundle of files by: their names in order, each with the hash of what it holds."""
    found = hashlib.sha256()
    for member in sorted(members, key=lambda member: member.name):
        if (file := tar.extractfile(member)) is not None:
            found.update(f"{member.name}\0{hashlib.sha256(file.read()).hexdigest()}\n".encode())
    return found.hexdigest()


def check_members(members: list[tarfile.TarInfo]) -> None:
    """Raises BundleError for names that lead out of the folder, links, devices, and what would fill the disk."""
    if len(members) > MAX_MEMBERS:
        raise BundleError(f"the bundle has {len(members)} files (limit {MAX_MEMBERS})")
    for member in members:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name:
            raise BundleError(f"the bundle holds {member.name!r}, which leads out of its folder")
        if not (member.isfile() or member.isdir()):
            raise BundleError(f"the bundle holds {member.name!r}, which is neither a file nor a folder")
    total_bytes = sum(member.size for member in members)
    if total_bytes > MAX_UNPACKED_BYTES:
        raise BundleError(f"the bundle unpacks to {total_bytes} bytes (limit {MAX_UNPACKED_BYTES})")
