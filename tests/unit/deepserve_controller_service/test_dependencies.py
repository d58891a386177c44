"""Results that other calls wait for: held as long as their inputs run, and forgotten with them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from deepserve.protocol.messages import Outcome, Value
from deepserve_controller.core.events import Payload
from deepserve_controller.service.dependencies import DependencyValues
from deepserve_controller.service.results import KeptResults
from deepserve_controller.service.segments import Segments

OK = Outcome("ok")
RESULT = Payload(Value("pickle", 1), b"x")


def no_timer(at_s: float, callback: object) -> None: ...


class Running(NamedTuple):
    kind: str = "call"


RUNNING = {name: Running() for name in ("rq-a", "rq-b")}


def values_in(folder: Path) -> DependencyValues:
    segments = Segments(str(folder))
    return DependencyValues(KeptResults(segments, ttl_s=60, max_bytes=1 << 20, call_at=no_timer), segments)


def num_held(values: DependencyValues) -> int:
    return len(values._values) + len(values._wanted) + len(values._inputs)


def test_an_input_that_has_ended_holds_nothing_though_its_map_runs_on(tmp_path: Path) -> None:
    values = values_in(tmp_path)
    (tmp_path / "v-1").write_bytes(b"x")
    for index in range(100):
        assert values.want("rq-map", index, ("rq-a",), RUNNING).unfinished == ("rq-a",)
    values.finished("rq-a", OK, Payload(Value("pickle", 1, segment="v-1"), b""))
    assert len(list(tmp_path.iterdir())) == 101, "each input has the result under a name of its own"
    for index in range(100):
        values.input_over("rq-map", index)
    assert num_held(values) == 0 and [file.name for file in tmp_path.iterdir()] == ["v-1"]


def test_who_waits_no_more_is_not_remembered_by_what_it_waited_for(tmp_path: Path) -> None:
    values = values_in(tmp_path)
    for number in range(100):
        values.want(f"rq-{number}", -1, ("rq-a", "rq-b"), RUNNING)
        values.over(f"rq-{number}")
    assert num_held(values) == 0


def test_an_input_that_is_sent_twice_does_no_harm(tmp_path: Path) -> None:
    values = values_in(tmp_path)
    for _ in range(2):
        values.want("rq-map", 3, ("rq-a",), RUNNING)
    values.finished("rq-a", OK, RESULT)
    assert values.of("rq-map", 3) == ((RESULT.value,), b"x")
    values.over("rq-map")
    assert num_held(values) == 0


def test_a_result_that_is_named_twice_comes_in_both_places(tmp_path: Path) -> None:
    values = values_in(tmp_path)
    values.want("rq-1", -1, ("rq-a", "rq-b", "rq-a"), RUNNING)
    values.finished("rq-b", OK, Payload(Value("pickle", 1), b"y"))
    values.finished("rq-a", OK, RESULT)
    assert values.of("rq-1", -1)[1] == b"xyx"
