from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
from pathlib import Path

import pytest

from deepserve._bundle import pack
from deepserve_runtime.bundle_store import BundleError, BundleStore


def tar_with(*members: tuple[str, bytes] | tarfile.TarInfo, mode: str = "w") -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode) as tar:  # type: ignore[call-overload]
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return target.getvalue()


def digest_of(files: dict[str, bytes]) -> str:
    lines = (f"{name}\0{hashlib.sha256(files[name]).hexdigest()}\n" for name in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:40]


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def store_of(folder: Path, content: bytes) -> BundleStore:
    return BundleStore(folder / "bundles", lambda digest: content)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_files_are_unpacked_once(tmp_path: Path, mode: str) -> None:
    fetched = []
    content = tar_with(("app.py", b"x = 1"), ("pkg/__init__.py", b""), ("pkg/a.txt", b"text"), mode=mode)
    store = BundleStore(tmp_path / "bundles", lambda digest: fetched.append(digest) or content)  # type: ignore[func-returns-value]
    digest = digest_of({"app.py": b"x = 1", "pkg/__init__.py": b"", "pkg/a.txt": b"text"})
    for _ in range(2):
        folder = store.files(digest)
        assert (folder / "app.py").read_text() == "x = 1"
        assert (folder / "pkg" / "a.txt").read_text() == "text"
    assert fetched == [digest]
    assert os.listdir(tmp_path / "bundles") == [digest]


def test_what_the_sdk_packs_is_what_its_digest_says(tmp_path: Path) -> None:
    for name in ("z.py", "pkg/__init__.py", "pkg/a.py", "pkg-b.py"):
        (tmp_path / "app" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "app" / name).write_text(f"name = {name!r}")
    packed = pack(str(tmp_path / "app"), map(str, (tmp_path / "app").rglob("*.py")))
    folder = store_of(tmp_path, packed.content).files(packed.digest)
    assert (folder / "pkg" / "a.py").read_text() == "name = 'pkg/a.py'"


def test_content_that_its_digest_does_not_name_is_refused(tmp_path: Path) -> None:
    digest = digest_of({"app.py": b"x = 1"})
    for content in (tar_with(("app.py", b"x = 2")), tar_with(("app.py", b"x = 1"), ("more.py", b""))):
        with pytest.raises(BundleError, match=f"{digest} holds something else"):
            store_of(tmp_path, content).files(digest)
    assert os.listdir(tmp_path / "bundles") == []
    dumped = hashlib.sha256(b"pickle").hexdigest()[:40]
    assert store_of(tmp_path, b"pickle").dump(dumped) == b"pickle"
    with pytest.raises(BundleError, match=f"{dumped} holds something else"):
        store_of(tmp_path, b"another").dump(dumped)


@pytest.mark.parametrize(
    "member",
    [
        ("../outside.py", b"bad"),
        ("pkg/../../outside.py", b"bad"),
        ("/tmp/deepserve-outside.py", b"bad"),
        ("a\\..\\b.py", b"bad"),
        special("link", tarfile.SYMTYPE, "/etc/passwd"),
        special("link", tarfile.SYMTYPE, "app.py"),
        special("link", tarfile.LNKTYPE, "../../etc/passwd"),
        special("pipe", tarfile.FIFOTYPE),
        special("device", tarfile.CHRTYPE),
    ],
)
def test_what_leads_out_of_the_folder_is_refused_before_anything_is_written(
    tmp_path: Path, member: tuple[str, bytes] | tarfile.TarInfo
) -> None:
    store = store_of(tmp_path, tar_with(("app.py", b"x = 1"), member))
    with pytest.raises(BundleError, match="bundle holds"):
        store.files("abc123")
    assert os.listdir(tmp_path) == ["bundles"] and os.listdir(tmp_path / "bundles") == []


@pytest.mark.parametrize("content", [b"", b"no tar at all", tar_with(("app.py", b"x" * 5000))[:1500]])
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BundleError):
        store_of(tmp_path, content).files("abc123")
    assert os.listdir(tmp_path / "bundles") == []


def test_a_tar_that_would_fill_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepserve_runtime.bundle_store.MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(BundleError, match="limit"):
        store_of(tmp_path, tar_with(("zeros.bin", bytes(100_000)), mode="w:gz")).files("abc123")


@pytest.mark.parametrize("digest", ["", "..", "../x", "a/b", ".hidden", "x" * 200])
def test_a_digest_is_no_path(tmp_path: Path, digest: str) -> None:
    with pytest.raises(BundleError, match="digest"):
        store_of(tmp_path, b"").files(digest)


def test_many_pods_unpack_at_once_and_find_the_same_files(tmp_path: Path) -> None:
    content = tar_with(*[(f"m{i}.py", b"x = 1") for i in range(50)])
    named = digest_of({f"m{i}.py": b"x = 1" for i in range(50)})
    together = threading.Barrier(8)
    found: list[int] = []

    def fetch(digest: str) -> bytes:
        together.wait(10)  # all have seen that the folder is not there
        return content

    def unpack() -> None:
        found.append(len(os.listdir(BundleStore(tmp_path / "bundles", fetch).files(named))))

    threads = [threading.Thread(target=unpack) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [50] * 8
    assert os.listdir(tmp_path / "bundles") == [named]
