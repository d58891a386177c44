from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import msgspec
import pytest

from deepserve._bundle import pack
from deepserve_runtime.bundle_store import BundleError, BundleStore


def packed(*files: tuple[str, bytes]) -> bytes:
    return msgspec.msgpack.encode(dict(files))


def digest_of(files: dict[str, bytes]) -> str:
    lines = (f"{name}\0{hashlib.sha256(files[name]).hexdigest()}\n" for name in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:40]


def store_of(folder: Path, content: bytes) -> BundleStore:
    return BundleStore(str(folder / "bundles"), lambda digest: content)


def test_files_are_unpacked_once(tmp_path: Path) -> None:
    fetched = []
    content = packed(("app.py", b"x = 1"), ("pkg/__init__.py", b""), ("pkg/a.txt", b"text"))
    store = BundleStore(str(tmp_path / "bundles"), lambda digest: fetched.append(digest) or content)  # type: ignore[func-returns-value]
    digest = digest_of({"app.py": b"x = 1", "pkg/__init__.py": b"", "pkg/a.txt": b"text"})
    for _ in range(2):
        folder = Path(store.files(digest))
        assert (folder / "app.py").read_text() == "x = 1"
        assert (folder / "pkg" / "a.txt").read_text() == "text"
    assert fetched == [digest]
    assert os.listdir(tmp_path / "bundles") == [digest]


def test_what_the_sdk_packs_is_what_its_digest_says(tmp_path: Path) -> None:
    for name in ("z.py", "pkg/__init__.py", "pkg/a.py", "pkg-b.py"):
        (tmp_path / "app" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "app" / name).write_text(f"name = {name!r}")
    bundle = pack(str(tmp_path / "app"), map(str, (tmp_path / "app").rglob("*.py")))
    folder = Path(store_of(tmp_path, bundle.content).files(bundle.digest))
    assert (folder / "pkg" / "a.py").read_text() == "name = 'pkg/a.py'"


def test_content_that_its_digest_does_not_name_is_refused(tmp_path: Path) -> None:
    digest = digest_of({"app.py": b"x = 1"})
    for content in (packed(("app.py", b"x = 2")), packed(("app.py", b"x = 1"), ("more.py", b""))):
        with pytest.raises(BundleError, match=f"{digest} holds something else"):
            store_of(tmp_path, content).files(digest)
    assert os.listdir(tmp_path) == []
    dumped = hashlib.sha256(b"pickle").hexdigest()[:40]
    assert store_of(tmp_path, b"pickle").dump(dumped) == b"pickle"
    with pytest.raises(BundleError, match=f"{dumped} holds something else"):
        store_of(tmp_path, b"another").dump(dumped)


@pytest.mark.parametrize(
    "name",
    [
        "../outside.py",
        "pkg/../../outside.py",
        "/tmp/deepserve-outside.py",
        "a\\..\\b.py",
        "pkg//a.py",
        "./a.py",
        "a.py/",
        "a\0.py",
        "",
    ],
)
def test_what_leads_out_of_the_folder_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    store = store_of(tmp_path, packed(("app.py", b"x = 1"), (name, b"bad")))
    with pytest.raises(BundleError, match="bundle holds"):
        store.files("abc123")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"no map at all", packed(("app.py", b"x" * 5000))[:1500], msgspec.msgpack.encode({"app.py": {"a": 1}})],
)
def test_what_is_no_map_of_files_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        store_of(tmp_path, content).files("abc123")
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_also_a_folder_leaves_nothing(tmp_path: Path) -> None:
    files = {"a": b"x", "a/b.py": b"y"}
    with pytest.raises(OSError):
        store_of(tmp_path, packed(*files.items())).files(digest_of(files))
    assert os.listdir(tmp_path / "bundles") == []


def test_what_would_fill_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepserve_runtime.bundle_store.MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(BundleError, match="limit"):
        store_of(tmp_path, packed(("zeros.bin", bytes(100_000)))).files("abc123")


@pytest.mark.parametrize("digest", ["", "..", "../x", "a/b", ".hidden", "x" * 200])
def test_a_digest_is_no_path(tmp_path: Path, digest: str) -> None:
    with pytest.raises(BundleError, match="digest"):
        store_of(tmp_path, b"").files(digest)


def test_many_pods_unpack_at_once_and_find_the_same_files(tmp_path: Path) -> None:
    content = packed(*[(f"m{i}.py", b"x = 1") for i in range(50)])
    named = digest_of({f"m{i}.py": b"x = 1" for i in range(50)})
    together = threading.Barrier(8)
    found: list[int] = []

    def fetch(digest: str) -> bytes:
        together.wait(30)  # all have seen that the folder is not there
        return content

    def unpack() -> None:
        found.append(len(os.listdir(BundleStore(str(tmp_path / "bundles"), fetch).files(named))))

    threads = [threading.Thread(target=unpack) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [50] * 8
    assert os.listdir(tmp_path / "bundles") == [named]
