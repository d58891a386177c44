"""What the controller is told of an engine, and when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from deepserve.protocol.messages import EngineReport
from deepserve.protocol.prompt_blocks import pack
from deepserve_runtime.executors.engine_news import PERIOD_S, EngineNews
from flowserve.outputs import SequenceOutput
from flowserve.rtc.device_blocks import Relocation
from flowserve.rtc.moves import Tier
from flowserve.step_log import StepLog
from flowserve.step_record import StepRecord, StepSetting

A, B, C = ("a" * 32, "b" * 32, "c" * 32)


class Engine:
    read_s = 0.0

    def __init__(self, is_arriving: bool = False) -> None:
        self.is_arriving = is_arriving
        self.relocations: list[Relocation] = []
        self.step_log = StepLog(StepSetting())
        self.num_pinned_blocks = 5

    def take_relocations(self) -> list[Relocation]:
        taken, self.relocations = self.relocations, []
        return taken


class Told:
    """EngineNews about one running sequence, with a clock by hand."""

    def __init__(self, is_arriving: bool = False) -> None:
        self.now_s = 100.0
        self.engine = Engine(is_arriving)
        self.reports: list[EngineReport] = []
        self.news = EngineNews(self.engine, lambda: self.now_s)  # type: ignore[arg-type]
        self.link: Any = SimpleNamespace(send=self.reports.append)
        task = SimpleNamespace(key=("task-1", 2))
        self.generations: Any = {"task-1/2": SimpleNamespace(task=task)}

    def __call__(self, num_output: int, finished: bool = False, sequence_id: str = "task-1/2") -> list[EngineReport]:
        output = SequenceOutput(sequence_id, (7,), "", finished, None, 40, num_output)
        self.reports.clear()
        self.news.tell([output], self.generations, self.link)
        return list(self.reports)


def test_first_tokens_and_ends_are_told_at_once_and_the_rest_now_and_then() -> None:
    told = Told()
    [first] = told(1)
    assert first.began == ("task-1",)
    assert told(2) == []
    told.now_s += 1.5 * PERIOD_S
    [periodic] = told(3)
    assert periodic.began == ()
    assert len(told(4, finished=True)) == 1
    assert told(1, sequence_id="dropped") == [], "nobody waits for it any more"
    assert {report.pinned_blocks for report in (first, periodic)} == {5}


def test_texts_alone_are_told_now_and_then() -> None:
    """They take room from what was cached, and their steps are none between two tokens of an answer."""
    told = Told()
    told.generations = {}
    told.engine.step_log.add(StepRecord(number=2, device_ms=500.0, prefill_tokens=400))
    assert told(1, finished=True, sequence_id="text 0") == []
    told.engine.relocations = [Relocation(A, None)]
    told.now_s += 1.5 * PERIOD_S
    [report] = told(1, finished=True, sequence_id="text 1")
    assert (report.gone, report.began, report.steps, report.prompt_tokens) == (pack([A]), (), 0, 400)
    told.now_s += 1.5 * PERIOD_S
    told.reports.clear()
    told.news.tell([], {}, told.link)
    assert told.reports == [], "nothing is computed"


def test_where_kv_is_now_by_its_latest_move() -> None:
    told = Told()
    told.engine.relocations = [
        Relocation(A, Tier.DEVICE), Relocation(B, Tier.DEVICE), Relocation(A, None), Relocation(C, Tier.HOST),
    ]  # fmt: skip
    [report] = told(1)
    assert (report.on_device, report.gone, report.on_host, report.in_file) == (pack([B]), pack([A]), pack([C]), b"")
    told.now_s += 1.0
    [report] = told(2)
    assert report.on_device == report.gone == b"", "told once"


def test_steps_since_the_last_report() -> None:
    told = Told()
    told.engine.step_log.add(StepRecord(number=2, device_ms=50.0, prefill_tokens=40))
    told.engine.step_log.add(StepRecord(number=3, device_ms=5.0, decode_sequences=1))
    [report] = told(1)
    assert (report.steps, report.step_ms, report.prompt_tokens, report.prompt_ms) == (1, 5.0, 40, 50.0)
    told.now_s += 1.0
    [report] = told(2)
    assert report.steps == 0


def test_a_first_step_says_nothing_of_the_next_ones() -> None:
    """It starts threads and touches all weights, for a request that did not wait for one of the executor's own."""
    told = Told()
    told.engine.step_log.add(StepRecord(number=1, device_ms=900.0, prefill_tokens=40))
    [report] = told(1)
    assert (report.steps, report.prompt_tokens, report.prompt_ms) == (0, 0, 0.0)
    told.engine.step_log.add(StepRecord(number=2, device_ms=50.0, prefill_tokens=40))
    [report] = told(1, finished=True)
    assert (report.prompt_tokens, report.prompt_ms) == (40, 50.0)


def test_a_sequence_that_goes_on_from_tokens_of_another_pod_begins_too() -> None:
    told = Told()
    [first] = told(17)
    assert first.began == ("task-1",)
    assert told(18) == []


def test_what_reading_the_weights_took_is_told_once_when_all_are_there() -> None:
    told = Told(is_arriving=True)
    assert told(1)[0].read_ms == 0.0
    told.engine.is_arriving, told.engine.read_s = False, 1.5
    assert [report.read_ms for report in told(2, finished=True) + told(3, finished=True)] == [1500.0, 0.0]
    held = Told()
    held.engine.read_s = 1.5
    assert held(1)[0].read_ms == 0.0, "its template has read them"
