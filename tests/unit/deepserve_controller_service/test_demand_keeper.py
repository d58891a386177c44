"""What is known of the demand for models, in the state folder: written seldom, read once, never in the way."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from deepserve_controller.core.preload_views import KnownModel
from deepserve_controller.service.demand_keeper import FILE, VERSION, DemandKeeper

SELDOM = KnownModel("fn-1", 20.0, (100.0, 90.5), 1.5, 400, 3000.0)
OFTEN = KnownModel("fn-2", 0.0)


def keeper_of(folder: Path, *models: KnownModel) -> DemandKeeper:
    manager = SimpleNamespace(known_models=lambda now_s: list(models))
    return DemandKeeper(str(folder), cast(Any, SimpleNamespace(cores=SimpleNamespace(cluster_manager=manager))))


def test_what_was_written_is_read_and_the_time_between_counts(tmp_path: Path) -> None:
    keeper = keeper_of(tmp_path, OFTEN, SELDOM)
    assert keeper.read() == []
    keeper.write()
    kept = json.loads((tmp_path / FILE).read_text())
    assert kept["version"] == VERSION and abs(kept["written_at"] - time.time()) < 60
    (tmp_path / FILE).write_text(json.dumps({**kept, "written_at": kept["written_at"] - 1000}))
    [often, seldom] = keeper_of(tmp_path).read()
    assert 1000 <= often.idle_s < 1060 and often.function_id == "fn-2"
    assert 1020 <= seldom.idle_s < 1080 and (seldom.gaps_s, seldom.uses) == (SELDOM.gaps_s, SELDOM.uses)
    assert (seldom.held_mib, seldom.load_ms) == (400, 3000.0)
    (tmp_path / FILE).write_text(json.dumps({**kept, "written_at": time.time() + 1000}))  # the clock was set back
    assert [model.idle_s for model in keeper_of(tmp_path).read()] == [0.0, 20.0]


def test_nothing_is_written_where_no_model_was_used(tmp_path: Path) -> None:
    keeper_of(tmp_path).write()
    keeper_of(tmp_path, SELDOM).write()  # which was read from there
    assert list(tmp_path.iterdir()) == []
    keeper = keeper_of(tmp_path, OFTEN)
    keeper.write()
    assert (tmp_path / FILE).exists()


def test_a_damaged_file_is_left_aside_and_written_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / FILE).write_text('{"version": 1, "written_at": 1.0, "models": [{"function_id": "fn-1", "idle_s": -1}]}')
    keeper = keeper_of(tmp_path, OFTEN)
    assert keeper.read() == []
    said = capsys.readouterr().err
    assert str(tmp_path / FILE) in said and ">= 0.0" in said and said.endswith("demand for models begins anew\n")
    keeper.write()
    assert [model.function_id for model in keeper.read()] == ["fn-2"]
