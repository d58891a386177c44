from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance import user_code
from tests.conformance.conftest import wait_for_file
from tests.conformance.user_code import Counter, Ranker


def test_parameters_and_the_enter_hook() -> None:
    assert Ranker(model="large").score.remote("q") == ("large", 5, 1, "q")
    assert Ranker().score.remote("q") == ("small", 5, 1, "q")
    with pytest.raises(TypeError, match="modell"):
        Ranker(modell="x")  # type: ignore[call-arg]


def test_a_local_instance_has_hooks_too() -> None:
    assert Ranker().score("q") == ("small", 5, 1, "q")


def test_methods_of_every_kind() -> None:
    assert Ranker(model="x").score_later.remote("abc") == 3
    assert list(Ranker().words.remote("a b c")) == ["a", "b", "c"]
    assert list(Ranker().score_later.map(["a", "bb"])) == [5, 10]


def test_state_stays_in_its_pod() -> None:
    counter = Counter(10, step=5)
    assert [counter.next.remote(), counter.next.remote()] == [15, 20]
    assert counter.next() == 15
    assert Counter(0).next.remote() == 1


def test_a_snapshot_is_loaded_once_for_all_pods(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    snapshot = user_code.Snapshot(folder=str(tmp_path))
    calls = [snapshot.meet.spawn(name, names) for name in names]
    found = [call.get(timeout=60) for call in calls]
    pids = {pid for pid, _, _ in found}
    assert len(pids) == 3 and {begun_by for _, _, begun_by in found} == pids
    assert {loaded_by for _, loaded_by, _ in found} == {int(path.read_text()) for path in tmp_path.glob("loaded-*")}


def test_the_exit_hook_runs_when_a_pod_is_given_back(tmp_path: Path) -> None:
    assert user_code.Farewell(folder=str(tmp_path)).greet.remote()
    wait_for_file(tmp_path / "closed")
