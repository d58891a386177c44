"""Folders are the user's alone, and those of dead controllers go."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from deepserve_controller.errors import AlreadyRunning, UnsafeFolder
from deepserve_controller.service.folders import make_folders, make_private, remove_leftovers
from deepserve_controller.service.keys import load_key
from deepserve_controller.service.state_folder import Claim


@pytest.fixture
def run() -> Iterator[Path]:
    """A folder not yet made, whose path leaves room for that of a socket."""
    with TemporaryDirectory(prefix="ds-") as folder:
        yield Path(folder, "run")


def test_folders_are_private_and_go(tmp_path: Path, run: Path) -> None:
    memory = tmp_path / "shm"
    memory.mkdir()
    folders = make_folders(str(run), str(memory))
    for folder in (folders.runtime, folders.private, folders.segments):
        assert os.stat(folder).st_mode & 0o777 == 0o700
    assert Path(folders.segments).parent == memory
    folders.remove()
    assert list(memory.iterdir()) == [] and list(run.iterdir()) == []


def test_without_shared_memory_segments_lie_in_the_private_folder(tmp_path: Path, run: Path) -> None:
    folders = make_folders(str(run), str(tmp_path / "missing"))
    assert Path(folders.segments).parent == Path(folders.private)


def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "run").symlink_to(tmp_path / "real")
    with pytest.raises(UnsafeFolder, match="link"):
        make_private(str(tmp_path / "run"))


def test_a_folder_open_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o750)
    with pytest.raises(UnsafeFolder, match="750"):
        make_private(str(tmp_path / "run"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    os.chown(tmp_path / "run", 12345, 12345)
    with pytest.raises(UnsafeFolder, match="12345"):
        make_private(str(tmp_path / "run"))


def test_only_dead_controllers_folders_are_removed(tmp_path: Path, run: Path) -> None:
    memory = tmp_path / "shm"
    memory.mkdir()
    living = make_folders(str(run), str(memory))
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    dead = run / f"ctl-{int(ended.stdout)}-abcd"
    dead.mkdir()
    reused = memory / f"deepserve-{os.getuid()}-{os.getpid()}-abcd"
    reused.mkdir()
    (reused / ".owner").write_text(f"{os.getpid()} 12345")  # a process of this number that started at another time
    foreign = run / "something-else"
    foreign.mkdir()
    assert set(remove_leftovers(str(run), str(memory))) == {str(dead), str(reused)}
    assert Path(living.private).exists() and Path(living.segments).exists() and foreign.exists()


def test_a_claim_is_held_once(tmp_path: Path) -> None:
    claim = Claim(str(tmp_path / "state"), "in use by {pid}")
    with pytest.raises(AlreadyRunning, match=str(os.getpid())):
        Claim(str(tmp_path / "state"), "in use by {pid}")
    threading.Timer(0.05, claim.release).start()
    Claim(str(tmp_path / "state"), "in use by {pid}", wait_s=30.0).release()
    Claim(str(tmp_path / "state"), "in use by {pid}").release()


def test_the_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    key = load_key(str(tmp_path))
    assert len(key) >= 40 and load_key(str(tmp_path)) == key
    assert os.stat(tmp_path / "key").st_mode & 0o777 == 0o600
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(UnsafeFolder, match="other users"):
        load_key(str(tmp_path))


def test_an_empty_or_linked_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").touch(mode=0o600)
    with pytest.raises(UnsafeFolder, match="no key"):
        load_key(str(tmp_path))
    (tmp_path / "key").unlink()
    (tmp_path / "key").symlink_to("/etc/hostname")
    with pytest.raises(UnsafeFolder, match="cannot be read"):
        load_key(str(tmp_path))


def test_a_lock_that_cannot_be_one_is_told(tmp_path: Path) -> None:
    make_private(str(tmp_path / "state"))
    (tmp_path / "state" / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeFolder, match="lock cannot be used: Too many levels of symbolic links"):
        Claim(str(tmp_path / "state"), "in use by {pid}")
    assert not (tmp_path / "elsewhere").exists()
