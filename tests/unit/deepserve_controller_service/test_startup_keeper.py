"""What starts of models took, in the state folder: of this host alone, and only what can be."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from deepserve_controller.core.events import StartupsRemembered
from deepserve_controller.core.startup_views import NOTHING_KNOWN, KnownSize, KnownStartups
from deepserve_controller.service.startup_keeper import FILE, StartupKeeper

KNOWN = KnownStartups({"disk": 2e9}, {"app/a ": 0.25, "app/a cpu": 0.5}, (KnownSize("/a", "auto", None, 1 << 30),))


class Startups:
    """In place of the core loop and its cluster manager."""

    def __init__(self, known: KnownStartups = NOTHING_KNOWN) -> None:
        self.known = known
        self.given: list[object] = []
        startups = SimpleNamespace(known=lambda: self.known)
        self.cores = SimpleNamespace(cluster_manager=SimpleNamespace(startups=startups))

    def give(self, event: object) -> None:
        self.given.append(event)


def keeper_of(folder: Path, startups: Startups, host: str = "one") -> StartupKeeper:
    return StartupKeeper(str(folder), cast(Any, startups), host)


def test_what_was_written_is_restored(tmp_path: Path) -> None:
    keeper_of(tmp_path, Startups(KNOWN)).write()
    later = Startups(KNOWN)
    keeper = keeper_of(tmp_path, later)
    keeper.restore()
    assert later.given == [StartupsRemembered(KNOWN)]
    before = (tmp_path / FILE).stat().st_ino
    keeper.write()
    assert (tmp_path / FILE).stat().st_ino == before, "nothing was learned since"
    later.known = KnownStartups({"disk": 3e9})
    keeper.write()
    assert keeper.read() == later.known


def test_nothing_is_written_before_a_start_was_seen(tmp_path: Path) -> None:
    startups = Startups()
    keeper = keeper_of(tmp_path, startups)
    keeper.restore()
    keeper.write()
    assert not list(tmp_path.iterdir()) and startups.given == []


def test_another_hosts_file_is_left_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keeper_of(tmp_path, Startups(KNOWN)).write()
    startups = Startups(KNOWN)
    keeper = keeper_of(tmp_path, startups, "other")
    keeper.restore()
    assert startups.given == []
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "startups.json was written on host 'one', this is 'other'" in said
    keeper.write()
    assert keeper.read() == KNOWN and not capsys.readouterr().err


@pytest.mark.parametrize(
    "known",
    [
        {"bytes_per_s": {"disk": 0}},
        {"bytes_per_s": {"disk": -1e9}},
        {"bytes_per_s": {"disk": 1e16}},
        {"bytes_per_s": ["disk"]},
        {"engine_s": {"app/a ": -0.1}},
        {"engine_s": {"app/a ": 1e6}},
        {"engine_s": {"app/a ": None}},
        {"sizes": [{"source": "/a", "dtype": "auto", "quantization": None, "size_bytes": 0}]},
        {"sizes": [{"source": "/a", "dtype": "auto", "quantization": None, "size_bytes": 1 << 60}]},
        {"sizes": [{"source": "/a", "size_bytes": 1}]},
    ],
    ids=str,
)
def test_what_cannot_be_is_not_believed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], known: dict[str, Any]
) -> None:
    file = {"version": 1, "written_at": 1.0, "host": "one", "known": known}
    (tmp_path / FILE).write_text(json.dumps(file))
    startups = Startups()
    keeper_of(tmp_path, startups).restore()
    assert startups.given == []
    assert "cannot be read" in (said := capsys.readouterr().err) and said.endswith("models take is learned anew\n")
