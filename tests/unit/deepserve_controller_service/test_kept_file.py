"""What was learned, in a file of the state folder: read whole or not at all, and never in the way."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from deepserve_controller.service.kept_file import MAX_BYTES, Kept, KeptFile


class Words(Kept):
    words: list[str]


def file_in(folder: Path) -> KeptFile[Words]:
    return KeptFile(str(folder / "words.json"), Words, 1, "words are lost")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    file = file_in(tmp_path)
    assert file.read() is None
    assert file.write(Words(version=1, words=["a"])) and file.write(Words(version=1, words=["b", "c"]))
    assert [path.name for path in tmp_path.iterdir()] == ["words.json"]
    assert os.stat(tmp_path / "words.json").st_mode & 0o777 == 0o600
    found = file.read()
    assert found is not None and found.words == ["b", "c"] and found.age_s < 60


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "cannot be read"),
        (b"\xff\x00", "cannot be read"),
        (b'{"version": 1, "written_at": 1.0, "words": ["a', "cannot be read"),
        (b'{"version": 1, "written_at": 1.0}', "words"),
        (b'{"written_at": 1.0, "words": []}', "version"),
        (b'{"version": 2, "written_at": 1.0, "words": 7}', "has format 2, this version of DeepServe reads 1"),
        (b'{"version": 1, "words": ["' + b"a" * MAX_BYTES + b'"]}', "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
    ],
    ids=["empty", "no text", "cut off", "incomplete", "no version", "newer", "too large", "too deep"],
)
def test_a_damaged_or_newer_file_is_left_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes, why: str
) -> None:
    (tmp_path / "words.json").write_bytes(data)
    file = file_in(tmp_path)
    assert file.read() is None
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.endswith("; words are lost\n")
    assert str(tmp_path / "words.json") in said and why in said
    assert file.write(Words(version=1, words=[])) and file.read() is not None


def test_a_folder_that_takes_nothing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "words.json").mkdir()
    file = file_in(tmp_path)
    assert not file.write(Words(version=1, words=[]))
    assert "cannot be written: Is a directory" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["words.json"]
    assert file.read() is None and "cannot be read: Is a directory" in capsys.readouterr().err


def test_a_clock_that_was_set_back_makes_no_time_negative(tmp_path: Path) -> None:
    file = file_in(tmp_path)
    file.write(Words(version=1, words=[]))
    kept = json.loads((tmp_path / "words.json").read_text())
    for written_at, least, most in ((kept["written_at"] - 1000, 1000, 1060), (kept["written_at"] + 1000, 0, 0)):
        (tmp_path / "words.json").write_text(json.dumps({**kept, "written_at": written_at}))
        found = file.read()
        assert found is not None and least <= found.age_s <= most
