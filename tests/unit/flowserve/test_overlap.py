"""Steps in flight: the next step is planned and the last one read while one runs, and nobody sees a difference."""

from __future__ import annotations

import gc
import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowserve import SamplingParams, StructuredOutputsParams
from flowserve.errors import EngineClosedError
from tests.unit.flowserve.running import run_to_end

PROMPT = [301, 48, 182, 7]
Build = Callable[..., Any]
TIGHT = {"num_kv_blocks": 30, "block_size": 4, "max_model_len": 100}  # enough preemptions


def greedy(**params: Any) -> SamplingParams:
    return SamplingParams(temperature=0.0, **{"ignore_eos": True, **params})


_others: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def others() -> None:
    """Threads of engines that earlier tests dropped: they end when these are collected."""
    _others.clear()
    _others.update(worker_threads())


def worker_threads() -> list[threading.Thread]:
    """Of this test's engines."""
    return [each for each in threading.enumerate() if each.name == "flowserve-worker" and each not in _others]


@pytest.fixture
def overlapped(engine: Build) -> Any:
    """`overlapped(**options)`: an engine whose steps run in a thread; it is closed as the test ends."""
    built = []

    def build(**options: Any) -> Any:
        built.append(engine(overlap=True, **options))
        return built[-1]

    yield build
    for each in built:
        each.close()
    assert not worker_threads()


PARAMS: dict[str, SamplingParams] = {
    "greedy": greedy(max_tokens=20),
    "ends": greedy(max_tokens=40, ignore_eos=False),
    "seeded": SamplingParams(seed=3, max_tokens=25, ignore_eos=True),
    "penalties": greedy(max_tokens=25, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.4),
    "late end": greedy(max_tokens=30, ignore_eos=False, min_tokens=12),
    "stop string": greedy(max_tokens=60, stop=["e", "a "]),
    "stop token": greedy(max_tokens=60, stop_token_ids=list(range(150, 220))),
    "logprobs": greedy(max_tokens=10, logprobs=2),
    "choice": greedy(max_tokens=30, structured_outputs=StructuredOutputsParams(choice=["yes", "no, never"])),
    "json": SamplingParams(
        seed=4,
        max_tokens=40,
        structured_outputs=StructuredOutputsParams(json={"type": "object", "properties": {"a": {"type": "integer"}}}),
    ),
    "one": greedy(max_tokens=1),
}


@pytest.mark.parametrize("options", [{}, {"max_num_batched_tokens": 5}, {"max_num_sequences": 2}, TIGHT])
def test_the_outputs_are_the_same(
    models: Build, engine: Build, overlapped: Build, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Ends that the worker knows (tokens, grammars), that only the engine knows (strings) and that are no surprise."""
    folder = tmp_path / "model"
    shutil.copytree(models(), folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": list(range(200, 260))}))
    outputs = []
    for build in (engine, overlapped):
        each = build(model=folder, seed=7, **options)
        for index, (name, params) in enumerate(PARAMS.items()):
            each.add(name, PROMPT + [5 + index] * index, params)
        outputs.append(run_to_end(each))
        assert each.stats().free_blocks == each.stats().total_blocks
    assert outputs[0] == outputs[1]
    assert {result["reason"] for result in outputs[0].values()} == {"stop", "length"}
    assert outputs[0]["ends"]["reason"] == outputs[0]["stop string"]["reason"] == "stop"
    if options is TIGHT:
        assert each.stats().num_preemptions > 0


@pytest.fixture(scope="module")
def alone(models: Build) -> Callable[[int], list[int]]:
    """`alone(i)`: the tokens of the i-th prompt, computed by itself."""
    from flowserve import Engine, EngineConfig

    engine = Engine.from_folder(models(), EngineConfig(num_threads=1))
    known: dict[int, list[int]] = {}

    def tokens(index: int) -> list[int]:
        if index not in known:
            engine.add("a", prompt(index), greedy(max_tokens=12))
            known[index] = run_to_end(engine)["a"]["tokens"]
        return known[index]

    return tokens


def prompt(index: int) -> list[int]:
    return [7 + index % 5] * (1 + 3 * index) + [40 + index]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    actions=st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 7), st.integers(1, 12), st.integers(0, 2)),
            st.tuples(st.just("abort"), st.integers(0, 3)),
            st.tuples(st.just("step"), st.integers(1, 4)),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_aborts_and_reused_ids_at_any_moment(
    models: Build, alone: Callable[[int], list[int]], actions: list[Any]
) -> None:
    """Few ids, so that one is often taken again while a step with its last holder is in flight."""
    from flowserve import Engine, EngineConfig

    each = Engine.from_folder(models(), EngineConfig(num_threads=1, overlap=True, max_num_sequences=3, **TIGHT))
    expected: dict[str, list[int]] = {}
    tokens: dict[str, list[int]] = {}

    def step() -> None:
        for output in each.step():
            tokens[output.sequence_id] += output.token_ids
            if output.finished:
                assert tokens.pop(output.sequence_id) == expected.pop(output.sequence_id)
        each.check_invariants()

    for action in actions:
        if action[0] == "add":
            free = [i for i in "abcd" if i not in expected]
            if free:
                each.add(free[0], prompt(action[1]), greedy(max_tokens=action[2]), priority=action[3])
                expected[free[0]], tokens[free[0]] = alone(action[1])[: action[2]], []
        elif action[0] == "abort" and (sequence_id := "abcd"[action[1]]) in expected:
            each.abort(sequence_id)
            del expected[sequence_id], tokens[sequence_id]
        elif action[0] == "step":
            for _ in range(action[1]):
                step()
    while each.has_work:
        step()
    assert not expected
    assert each.stats().free_blocks == each.stats().total_blocks
    each.close()


def test_the_next_step_runs_while_the_last_is_read(overlapped: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the tokens of each step waits until the step after it has begun, which only a second thread lets pass."""
    from flowserve.sequence_stream import SequenceStream

    each = overlapped()
    begun: list[int] = []
    changed = threading.Condition()
    execute, read = each._worker.execute, SequenceStream.read
    num_read = 0

    def noting_execute(batch: Any) -> Any:
        with changed:
            begun.append(len(batch.sequences))
            changed.notify_all()
        return execute(batch)

    def waiting_read(self: SequenceStream, tokens: Any) -> Any:
        nonlocal num_read
        num_read += 1
        with changed:
            assert changed.wait_for(lambda: len(begun) > num_read or num_read == 6, timeout=30)
        return read(self, tokens)

    monkeypatch.setattr(each._worker, "execute", noting_execute)
    monkeypatch.setattr(SequenceStream, "read", waiting_read)
    each.add("a", PROMPT, greedy(max_tokens=6))
    assert len(run_to_end(each)["a"]["tokens"]) == 6 and len(begun) == 6


def test_a_step_planned_for_what_has_ended_does_not_run_it(models: Build, overlapped: Build, tmp_path: Path) -> None:
    """Where the worker knows the end: the step after the last token computes nothing."""
    folder = tmp_path / "model"
    shutil.copytree(models(), folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": list(range(3, 400))}))
    each = overlapped(model=folder)
    num_computed = 0
    run = each._worker._runner.run

    def counting(batch: Any, tokens: Any) -> Any:
        nonlocal num_computed
        num_computed += batch.num_tokens
        return run(batch, tokens)

    each._worker._runner.run = counting
    each.add("a", PROMPT, greedy(max_tokens=50, ignore_eos=False))
    (output,) = each.step()
    assert output.finish_reason == "stop" and each.has_work
    assert each.step() == [] and not each.has_work
    assert num_computed == len(PROMPT)


@pytest.mark.parametrize("overlap", [False, True])
def test_a_step_that_fails_ends_its_own_sequences_only(engine: Build, overlap: bool) -> None:
    each = engine(overlap=overlap, max_num_sequences=2)
    execute = each._worker.execute
    num_steps = 0

    def failing(batch: Any) -> Any:
        nonlocal num_steps
        num_steps += 1
        if num_steps == 3:
            each._worker._runner.run, kept = None, each._worker._runner.run  # as a defect in the model would
            try:
                return execute(batch)
            finally:
                each._worker._runner.run = kept
        return execute(batch)

    each._worker.execute = failing
    for sequence_id in ("bad", "also bad", "good", "also good"):
        each.add(sequence_id, PROMPT, greedy(max_tokens=12))
    results = run_to_end(each)
    assert {sequence_id: result["reason"] for sequence_id, result in results.items()} == {
        "bad": "abort", "also bad": "abort", "good": "length", "also good": "length",
    }  # fmt: skip
    assert len(results["bad"]["tokens"]) == 2 and results["bad"]["tokens"] == results["good"]["tokens"][:2]
    assert each.stats().free_blocks == each.stats().total_blocks
    each.add("bad", PROMPT, greedy(max_tokens=12))
    assert run_to_end(each)["bad"]["tokens"] == results["good"]["tokens"]
    each.close()


def test_the_error_of_a_step_is_told_to_each_sequence(engine: Build) -> None:
    each = engine()

    def failing(batch: Any) -> Any:
        raise MemoryError("no room for 12 GiB")

    each._worker.execute = failing
    each.add("a", PROMPT, greedy())
    (output,) = each.step()
    assert output.error == "a step of the engine failed: MemoryError: no room for 12 GiB"
    assert (output.finished, output.finish_reason, output.token_ids) == (True, "abort", ())
    assert not each.has_work


def test_a_text_that_cannot_be_made_ends_its_sequence_only(engine: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowserve.sequence_stream import SequenceStream

    each = engine()
    read = SequenceStream.read

    def failing(self: SequenceStream, tokens: Any) -> Any:
        if self.request_id == "bad" and self.sequence.num_output_tokens == 2:
            raise ValueError("no such character")
        return read(self, tokens)

    monkeypatch.setattr(SequenceStream, "read", failing)
    outputs = []
    for sequence_id in ("bad", "good"):
        each.add(sequence_id, PROMPT, greedy(max_tokens=5))
    while each.has_work:
        outputs += each.step()
        each.check_invariants()
    (last,) = [output for output in outputs if output.sequence_id == "bad" and output.finished]
    assert (last.finish_reason, last.num_output_tokens) == ("abort", 3) and "no such character" in str(last.error)
    assert sum(len(output.token_ids) for output in outputs if output.sequence_id == "good") == 5


def test_an_interrupt_leaves_the_engine_consistent(engine: Build) -> None:
    each = engine()
    execute = each._worker.execute

    def interrupted(batch: Any) -> Any:
        each._worker.execute = execute
        raise KeyboardInterrupt

    each._worker.execute = interrupted
    each.add("broken", PROMPT, greedy(max_tokens=3))
    with pytest.raises(KeyboardInterrupt):
        each.step()
    each.check_invariants()
    each.add("good", PROMPT, greedy(max_tokens=3))
    (output,) = each.step()
    assert (output.sequence_id, output.finish_reason) == ("broken", "abort")
    assert len(run_to_end(each)["good"]["tokens"]) == 3


def test_the_thread_lives_from_the_first_step_to_close(engine: Build) -> None:
    each = engine(overlap=True)
    each.add("a", PROMPT, greedy(max_tokens=50))
    assert not worker_threads()
    each.step()
    assert len(worker_threads()) == 1
    each.close()
    assert not worker_threads() and not each.has_work
    each.close()
    with pytest.raises(EngineClosedError):
        each.step()
    with pytest.raises(EngineClosedError):
        each.add("b", PROMPT, greedy())
    assert each.stats().free_blocks == each.stats().total_blocks


def test_the_thread_ends_with_an_engine_that_is_dropped(models: Build) -> None:
    from flowserve import Engine, EngineConfig

    each = Engine.from_folder(models(), EngineConfig(num_threads=1, overlap=True))
    each.add("a", PROMPT, greedy(max_tokens=50))
    each.step()
    (thread,) = worker_threads()
    del each
    gc.collect()
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_without_overlap_there_is_no_thread(engine: Build) -> None:
    each = engine(overlap=False)
    each.add("a", PROMPT, greedy(max_tokens=5))
    run_to_end(each)
    assert not worker_threads()


def test_overlap_and_speculation_exclude_each_other() -> None:
    from flowserve import EngineConfig
    from flowserve.errors import InvalidConfigError

    with pytest.raises(InvalidConfigError, match="speculative_tokens"):
        EngineConfig(overlap=True, speculative_tokens=3)


def test_copies_that_fail_end_their_step_and_the_one_behind_it_leaves_its_sequences_out(
    overlapped: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = overlapped()
    execute, run = each._worker.execute, each._worker._runner.run
    num_steps, computed = 0, []

    def with_bad_copies(batch: Any) -> Any:
        nonlocal num_steps
        num_steps += 1
        return execute(replace(batch, copies=((0, 10**6),)) if num_steps == 3 else batch)

    def noting(batch: Any, tokens: Any) -> Any:
        computed.append([entry.sequence_id for entry in batch.sequences])
        return run(batch, tokens)

    monkeypatch.setattr(each._worker, "execute", with_bad_copies)
    monkeypatch.setattr(each._worker._runner, "run", noting)
    each.add("bad", PROMPT, greedy(max_tokens=12))
    outputs = each.step() + each.step()
    each.add("good", PROMPT, greedy(max_tokens=12))
    while each.has_work:
        outputs += each.step()
        each.check_invariants()
    (last,) = [output for output in outputs if output.sequence_id == "bad" and output.finished]
    assert last.finish_reason == "abort" and "ValueError" in str(last.error)
    assert computed[:2] == [["bad"]] * 2 and computed[2:] == [["good"]] * 12


@pytest.mark.parametrize("pushing_fails", [False, True])
def test_a_text_that_cannot_be_ended_ends_its_sequence_only(
    engine: Build, monkeypatch: pytest.MonkeyPatch, pushing_fails: bool
) -> None:
    from flowserve.sequence_text import SequenceText

    each = engine()
    for sequence_id, num in (("bad", 3), ("good", 5)):
        each.add(sequence_id, PROMPT, greedy(max_tokens=num))
    bad = each._book.streams["bad"]._text

    def failing(error: str, method: Any) -> Any:
        def call(self: SequenceText, *token_id: int) -> Any:
            if self is bad:
                raise ValueError(error)
            return method(self, *token_id)

        return call

    monkeypatch.setattr(SequenceText, "finish", failing("no last character", SequenceText.finish))
    if pushing_fails:
        monkeypatch.setattr(SequenceText, "push", failing("no such character", SequenceText.push))
    outputs = []
    while each.has_work:
        outputs += each.step()
        each.check_invariants()
    (last,) = [output for output in outputs if output.sequence_id == "bad" and output.finished]
    assert last.finish_reason == "abort"
    assert ("no such character" if pushing_fails else "no last character") in str(last.error)
    assert sum(len(output.token_ids) for output in outputs if output.sequence_id == "good") == 5
