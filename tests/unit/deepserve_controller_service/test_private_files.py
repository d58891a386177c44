"""What lies in a state folder is its user's alone, whatever the umask, and whoever wrote it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepserve_controller.errors import StoreUnreadable, UnsafeFolder
from deepserve_controller.service.bundles import Bundle
from deepserve_controller.service.log_files import LogFiles
from deepserve_controller.service.private_files import close_to_others
from deepserve_controller.service.sql_store import SqlStore
from tests.unit.deepserve_controller_service.test_store import app, spec


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path.relative_to(folder)): f"{path.stat().st_mode & 0o777:o}" for path in files}


def fill(folder: Path) -> None:
    """The store stays open: SQLite removes its log and index with the last connection."""
    store = SqlStore(str(folder))
    store.put_app(app("shop", spec("buy", "d1")), {"d1": Bundle("files", b"code")})
    store.keys.put("key-1", b"digest")
    logs = LogFiles(str(folder / "logs"))
    logs.write("shop/buy", b"sold\n")
    found = modes(folder)
    assert {"state.db", "state.db-wal", "state.db-shm", "logs/shop/buy.log"} < found.keys() and len(found) == 5
    logs.close()
    store.close()
    assert set(found.values()) == {"600"}, found


def test_all_that_a_controller_writes_is_private(tmp_path: Path) -> None:
    fill(tmp_path)


def test_what_was_readable_by_others_is_closed_to_them(tmp_path: Path) -> None:
    store = SqlStore(str(tmp_path))
    store.put_app(app("shop", spec("buy", "d1")), {"d1": Bundle("files", b"code")})
    for name in ("demand.json", "logs/shop/buy.log", "key", "run.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.chmod(0o755 if path.name == "run.sh" else 0o644)
    outside = tmp_path.with_name("outside")
    outside.touch(mode=0o644)
    (tmp_path / "linked").symlink_to(outside)
    close_to_others(str(tmp_path))
    found = modes(tmp_path)
    assert found.pop("key") == "644", "which is refused, for who has read it has it still"
    assert found.pop("run.sh") == "700"
    assert set(found.values()) == {"600"} and len(found) == 6, found
    assert outside.stat().st_mode & 0o777 == 0o644
    store.close()


def test_an_empty_folder_has_nothing_to_close(tmp_path: Path) -> None:
    close_to_others(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_closed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demand.json").touch(mode=0o644)

    def refuse(path: str, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted", path)

    monkeypatch.setattr(os, "chmod", refuse)
    with pytest.raises(UnsafeFolder, match="demand.json is open to other users.*not permitted"):
        close_to_others(str(tmp_path))


def test_a_store_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.db").mkdir()
    with pytest.raises(StoreUnreadable, match="state.db cannot be read: Is a directory"):
        SqlStore(str(tmp_path))
