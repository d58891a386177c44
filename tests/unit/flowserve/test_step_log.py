"""StepLog: what is counted of a batch, what is written when, and files that are full, cut off or something else."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from flowserve import SamplingParams
from flowserve.cli import commands
from flowserve.cost_model import TERMS, CostModel, check_place
from flowserve.errors import StepLogError
from flowserve.query_key_pairs import num_pairs
from flowserve.scheduling.batch import Batch, ScheduledSequence
from flowserve.step_log import FLUSH_RECORDS, FLUSH_S, RING_SIZE, StepLog, read_step_log, renames_before
from flowserve.step_record import StepRecord, StepSetting, StepWork, shared_window
from tests.unit.flowserve.running import run_to_end

SETTING = StepSetting(model="small", device="cpu", chunk=512, block_size=32)


def record(number: int) -> StepRecord:
    return StepRecord(number=number, device_ms=1.5 * number, engine_ms=0.25, decode_sequences=2, num_sequences=2)


def entry(start: int, num_tokens: int, num_logits: int = 0, num_drafts: int = 0) -> ScheduledSequence:
    return ScheduledSequence(f"s{start}", start, num_tokens, [0], num_logits, 0, 0, 0, num_drafts)


def test_what_a_batch_is_counted_as() -> None:
    batch = Batch((entry(9, 1, 1), entry(0, 4), entry(20, 3, 3, num_drafts=2), entry(99, 1, 1)))
    work = StepWork.of_batch(batch)
    assert (work.prefill_tokens, work.decode_sequences, work.num_tokens, work.num_sequences) == (7, 2, 9, 4)
    assert (work.num_logits, work.decode_pairs, work.prefill_pairs) == (5, 110, 10 + 21 + 22 + 23)
    windowed = StepWork.of_batch(batch, window=15)
    assert (windowed.decode_pairs, windowed.prefill_pairs) == (25, 10 + 45)
    assert StepWork.of_batch(Batch(())) == StepWork()


def test_batches_and_the_shapes_that_are_asked_about_agree() -> None:
    assert StepWork.of_prompt(5, 7) == StepWork.of_batch(Batch((entry(7, 5, 1),)))
    assert StepWork.of_prompt(5, 7, 6, is_last=False) == StepWork.of_batch(Batch((entry(7, 5),)), 6)
    assert StepWork.of_prompt(1, 7) == StepWork.of_decodes([8]) == StepWork.of_batch(Batch((entry(7, 1, 1),)))
    assert StepWork.of_decodes([8, 3], 4) == StepWork.of_batch(Batch((entry(7, 1, 1), entry(2, 1, 1))), 4)


@given(st.integers(0, 60), st.integers(1, 60), st.integers(0, 70))
@settings(derandomize=True, deadline=None)
def test_pairs(start: int, num_tokens: int, window: int) -> None:
    seen = [min(position + 1, window) if window else position + 1 for position in range(start, start + num_tokens)]
    assert num_pairs(start, num_tokens, window) == sum(seen)


def test_a_window_counts_where_every_layer_has_one() -> None:
    assert [shared_window(each) for each in ([], [0, 8], [8, 8], [8, 4])] == [0, 0, 8, 8]


def test_a_step_adds_what_is_not_hidden() -> None:
    assert record(4).ms == 6.25
    assert msgspec.structs.replace(record(4), overlapped=True).ms == 6.0


def test_written_and_read(tmp_path: Path) -> None:
    log = StepLog(SETTING, tmp_path / "steps.jsonl")
    records = [record(number) for number in range(1, 11)]
    for each in records:
        log.add(each)
    log.close()
    log.close()
    assert read_step_log(log.path) == (SETTING, records) and log.records() == records  # type: ignore[arg-type]
    log.clear()
    assert log.records() == []
    again = StepLog(SETTING, tmp_path / "steps.jsonl")
    again.add(record(1))
    again.close()
    assert read_step_log(tmp_path / "steps.jsonl") == (SETTING, [*records, record(1)])


def test_without_a_file_only_the_newest_are_kept() -> None:
    log = StepLog(SETTING)
    for number in range(RING_SIZE + 5):
        log.add(record(number))
    log.close()
    assert [each.number for each in log.records()] == list(range(5, RING_SIZE + 5))


def test_written_by_number_and_by_age(tmp_path: Path) -> None:
    now_s = [0.0]
    path = tmp_path / "steps.jsonl"
    log = StepLog(SETTING, path, lambda: now_s[0])

    def num_written() -> int:
        return path.read_text().count("\n") - 1

    for number in range(FLUSH_RECORDS - 1):
        log.add(record(number))
    assert num_written() == 0
    log.add(record(0))
    assert num_written() == FLUSH_RECORDS
    now_s[0] = 5.0
    log.add(record(1))
    assert num_written() == FLUSH_RECORDS
    now_s[0] = 5.0 + FLUSH_S
    log.add(record(2))
    assert num_written() == FLUSH_RECORDS + 2
    log.add(record(3))
    log.flush()
    assert num_written() == FLUSH_RECORDS + 3


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_ends_the_writing_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = StepLog(SETTING, tmp_path / "steps.jsonl")
    assert log._file is not None
    log._file.close()
    log._file = open("/dev/full", "wb", buffering=0)
    with caplog.at_level(logging.WARNING):
        for number in range(3 * FLUSH_RECORDS):
            log.add(record(number))
        log.close()
    assert [message for message in caplog.messages if "steps.jsonl" in message] == caplog.messages
    assert len(caplog.messages) == 1 and "No space left" in caplog.messages[0]
    assert len(log.records()) == 3 * FLUSH_RECORDS


def test_a_full_file_makes_way_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    log = StepLog(SETTING, path, max_file_bytes=1000)
    for number in range(1, 101):
        log.add(record(number))
        log.flush()
        assert all(each.stat().st_size <= 1000 for each in tmp_path.iterdir())
    log.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == [path.name] + [f"{path.name}.{n}" for n in (1, 2, 3)]
    setting, records = read_step_log(path)
    assert setting == SETTING
    numbers = [each.number for each in records]
    assert numbers == list(range(numbers[0], 101)) and 20 < len(numbers) < 60
    StepLog(SETTING, path, max_file_bytes=10).close()  # of an engine that finds a full one
    assert read_step_log(path)[1][-1].number == 100 and len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("size_bytes, num_new, makes_way", [(0, 99, False), (4, 6, False), (4, 7, True), (10, 1, True)])
def test_when_a_file_makes_way(size_bytes: int, num_new: int, makes_way: bool) -> None:
    renames = [(old.name, new.name) for old, new in renames_before(Path("a/b"), size_bytes, b"x" * num_new, 10)]
    assert renames == ([("b.2", "b.3"), ("b.1", "b.2"), ("b", "b.1")] if makes_way else [])


def test_a_file_that_cannot_make_way_ends_the_writing_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "steps.jsonl"
    (tmp_path / "steps.jsonl.1" / "in the way").mkdir(parents=True)
    log = StepLog(SETTING, path, max_file_bytes=400)
    for number in range(1, 9):
        log.add(record(number))
        log.flush()
    log.close()
    assert len(log.records()) == 8 and path.stat().st_size <= 400
    assert len([each for each in caplog.records if "ends here" in each.message]) == 1


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear reader")
    for path in (tmp_path, tmp_path / "no" / "folder", tmp_path / "letter.txt"):
        with pytest.raises(StepLogError, match=path.name):
            StepLog(SETTING, path)
    assert (tmp_path / "letter.txt").read_text() == "Dear reader"


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    for _ in range(2):
        log = StepLog(SETTING, path)
        for number in (1, 2, 3):
            log.add(record(number))
        log.close()
        path.write_bytes(path.read_bytes()[:-20])  # the process was killed while it wrote
    assert [each.number for each in read_step_log(path)[1]] == [1, 2, 1, 2]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    with pytest.raises(StepLogError, match="steps.jsonl: No such file"):
        read_step_log(path)
    path.write_bytes(b"")
    with pytest.raises(StepLogError, match="no steps"):
        read_step_log(path)
    log = StepLog(SETTING, path)
    log.close()
    with pytest.raises(StepLogError, match="no steps"):
        read_step_log(path)
    log = StepLog(SETTING, path)
    log.add(record(1))
    log.add(record(2))
    log.close()
    good = path.read_bytes()
    damages = [(b'"number":1', b'"number":"x"'), (b'"number":1,', b""), (b"engine_ms", b"engine"), (b"{", b"\xff")]
    for old, new in damages:
        path.write_bytes(good.replace(old, new))
        with pytest.raises(StepLogError, match="steps.jsonl: line (1|3) "):
            read_step_log(path)
    path.write_bytes(good)
    StepLog(msgspec.structs.replace(SETTING, chunk=64), path).close()
    with pytest.raises(StepLogError, match="line 5 begins another setting: chunk 512 became 64"):
        read_step_log(path)


# --- as an engine writes it ---------------------------------------------------------------------------------


def test_an_engine_logs_its_steps(engine: Any, tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    each = engine(step_log=path, max_num_batched_tokens=16, block_size=8, cpu_backend="extension")
    params = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
    each.add("a", list(range(3, 23)), params)
    each.add("b", [5, 6], params)
    run_to_end(each)
    records = each.step_log.records()
    assert [record.number for record in records] == list(range(1, each.stats().num_steps + 1))
    assert [(record.prefill_tokens, record.decode_sequences) for record in records[:2]] == [(16, 0), (6, 0)]
    assert records[0].prefill_pairs == 16 * 17 // 2 and records[0].num_logits == 0
    assert sum(record.num_logits for record in records) == 8
    assert sum(record.decode_sequences for record in records) == 6
    assert all(record.device_ms > 0.0 and record.engine_ms > 0.0 and not record.overlapped for record in records)
    assert records[0].running == 1 and records[0].waiting == 1 and records[-1].running == 0
    each.close()
    setting, written = read_step_log(path)
    assert written == records
    assert (setting.model, setting.chunk, setting.block_size, setting.backend) == (
        each._hold._folder.name, 16, 8, "PackedRunner",
    )  # fmt: skip


def test_logging_changes_no_tokens_and_off_means_off(engine: Any) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
    found = []
    for options in ({}, {"step_log": False}, {"step_log": True}, {"step_log": True, "overlap": True}):
        each = engine(**options)
        each.add("a", [5, 6, 7], params)
        found.append(run_to_end(each)["a"]["tokens"])
        assert (each.step_log is not None) == bool(options.get("step_log"))
        if each.step_log is not None:
            records = each.step_log.records()
            assert len(records) == each.stats().num_steps
            assert all(record.overlapped == ("overlap" in options) for record in records)
    assert found == found[:1] * 4


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, ("float32", "float32", 1)),
        ({"quantization": "int8"}, ("float32", "int8", 1)),
        ({"quantization": "int8", "kv_cache_dtype": "float32"}, ("float32", "float32", 1)),
        ({"dtype": "bfloat16", "cpu_backend": "torch"}, ("bfloat16", "bfloat16", 1)),
        ({"dtype": "bfloat16", "cpu_backend": "torch", "kv_cache_dtype": "float32"}, ("bfloat16", "float32", 1)),
    ],
)
def test_the_setting_says_what_was_chosen(engine: Any, options: dict[str, Any], expected: tuple[Any, ...]) -> None:
    setting = engine(step_log=True, **options).step_log.setting
    assert (setting.dtype, setting.kv_cache_dtype, setting.num_threads) == expected
    assert setting.shape[2] == 2 and setting.checkpoint_dtype == "float32"


def test_a_log_that_cannot_be_opened_stops_the_engine_before_it_starts(engine: Any, tmp_path: Path) -> None:
    with pytest.raises(StepLogError, match="nowhere"):
        engine(step_log=tmp_path / "nowhere" / "steps.jsonl")


def test_calibrated_and_fitted_from_the_command_line(models: Any, tmp_path: Path) -> None:
    """What the fit of so short a run is worth depends on the machine, so the error is printed, not judged."""
    log, out, again = tmp_path / "steps.jsonl", tmp_path / "cost.json", tmp_path / "again.json"
    arguments = ["calibrate", str(models()), "--out", str(out), "--log", str(log), "--seconds", "2"]
    options = ["--num-threads", "1", "--kv-cache-dtype", "int8", "--cpu-backend", "torch", "--block-size", "16"]
    ran = CliRunner().invoke(commands, [*arguments, *options])
    assert ran.exit_code == 0, ran.output
    assert "median" in ran.output and "decode" in ran.output
    print(ran.output)
    model = CostModel.load(out)
    assert model.setting.model == models().name and model.num_steps >= 40
    found = model.setting.kv_cache_dtype, model.setting.backend, model.setting.block_size, model.setting.num_threads
    assert found == ("int8", "ModelRunner", 16, 1)
    assert model.decode_ms([30] * 8) > 0.0 and model.prefill_ms(100) > model.prefill_ms(4)
    ran = CliRunner().invoke(commands, ["fit-cost", str(log), "--out", str(again)])
    assert ran.exit_code == 0 and CostModel.load(again).setting == model.setting
    with pytest.raises(StepLogError, match="nothing.jsonl"):
        CliRunner().invoke(commands, ["fit-cost", str(tmp_path / "nothing.jsonl")], catch_exceptions=False)


@pytest.mark.parametrize("place", ["nowhere/cost.json", "log.jsonl/cost.json"])
@pytest.mark.parametrize("command", ["calibrate", "fit-cost"])
def test_a_cost_model_without_a_place_is_refused_before_the_work(command: str, place: str, tmp_path: Path) -> None:
    """Neither looks at what it is to work on: the log is none, and no model is there."""
    (tmp_path / "log.jsonl").write_text("no log")
    given = tmp_path / ("log.jsonl" if command == "fit-cost" else "no-model")
    with pytest.raises(StepLogError, match=f"{place}: there is no folder"):
        CliRunner().invoke(commands, [command, str(given), "--out", str(tmp_path / place)], catch_exceptions=False)


def test_a_cost_model_that_cannot_be_saved(tmp_path: Path) -> None:
    model = CostModel(coefficients=dict.fromkeys(TERMS, 1.0), knee=1)
    for place in (tmp_path / "nowhere" / "cost.json", tmp_path):
        with pytest.raises(StepLogError, match=str(place)):
            model.save(place)
    with pytest.raises(StepLogError, match="no file can be written there"):
        check_place(tmp_path)
