"""Sleep and wake: the same tokens afterwards, the memory and threads given back, and what is refused meanwhile."""

from __future__ import annotations

import gc
import json
import os
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowserve import SamplingParams
from flowserve.errors import (
    CheckpointChangedError,
    CheckpointError,
    EngineAsleepError,
    EngineBusyError,
    EngineClosedError,
    InvalidRequestError,
)
from tests.unit.flowserve.running import run_to_end
from tests.waiting import wait_for

PROMPT = [301, 48, 182, 7] * 6
Build = Callable[..., Any]
BACKENDS = ("extension", "torch")


def greedy(max_tokens: int = 8) -> SamplingParams:
    return SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=max_tokens)


def tokens_of(engine: Any, prompt: list[int] | None = None, **turn: Any) -> list[int]:
    engine.add("a", prompt or PROMPT, greedy(), **turn)
    tokens: list[int] = run_to_end(engine)["a"]["tokens"]
    return tokens


def threads() -> set[str]:
    """A thread that was joined is still among them for a moment."""
    return set(os.listdir("/proc/self/task"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("level", [1, 2])
def test_the_same_tokens_before_and_after(engine: Build, backend: str, level: int) -> None:
    each = engine(cpu_backend=backend)
    expected = tokens_of(each)
    for _ in range(2):
        each.sleep(level)
        assert each.is_sleeping and each.stats().sleep_level == level
        each.check_invariants()
        each.wake()
        assert not each.is_sleeping and each.stats().cached_blocks == 0
        assert tokens_of(each) == expected
    assert each.stats().free_blocks == each.stats().total_blocks


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_quantised_weights_wake_as_they_were(engine: Build, quantization: str) -> None:
    each = engine(quantization=quantization)
    expected = tokens_of(each)
    for level in (1, 2):
        each.sleep(level)
        each.wake()
        assert tokens_of(each) == expected


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("level", [1, 2])
def test_what_it_held_is_gone(models: Build, backend: str, level: int) -> None:
    from flowserve import Engine, EngineConfig

    each = Engine.from_folder(models(), EngineConfig(num_threads=3, cpu_backend=backend, overlap=True))
    tokens_of(each)
    runner = weakref.ref(each._hold.runner)
    storage = weakref.ref(each._hold.runner.storage)
    weights = weakref.ref(each._hold._loaded.weights)  # type: ignore[union-attr]
    gc.collect()  # engines of other tests
    awake = threads()
    each.sleep(level)  # a collection of cycles would take a tenth of a second: there must be none
    assert runner() is None and storage() is None
    assert (weights() is not None) == (backend == "extension" and level == 1)
    num_own = 3 if backend == "extension" else 1  # the worker's and two of the kernels; torch keeps some of its own
    wait_for(lambda: len(awake - threads()) >= num_own)
    each.wake()
    tokens_of(each)
    each.close()


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="needs /proc/self/smaps")
def test_parked_weights_are_not_this_process_memory(models: Build, engine: Build) -> None:
    folder = models("llama", hidden_size=256, intermediate_size=1024, num_hidden_layers=4)
    each = engine(folder, cpu_backend="extension")
    tokens_of(each)

    def resident_kib() -> int:
        total, inside = 0, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if "-" in line.split()[0]:
                inside = ".flat" in line
            elif inside and line.startswith("Rss:"):
                total += int(line.split()[1])
        return total

    used = resident_kib()
    assert used > 1000
    each.sleep(1)
    parked = resident_kib()
    assert used - parked > 1000
    each.wake()
    assert resident_kib() >= used


def test_asleep_it_takes_no_requests_and_makes_no_steps(engine: Build) -> None:
    each = engine()
    each.sleep()
    with pytest.raises(EngineAsleepError, match="level 1"):
        each.add("a", PROMPT, greedy())
    with pytest.raises(EngineAsleepError):
        each.step()
    assert not each.has_work
    each.sleep(1)
    each.sleep(2)
    assert each.stats().sleep_level == 2
    each.sleep(1)
    assert each.stats().sleep_level == 2, "from a deeper sleep nothing changes"
    each.wake()
    each.wake()
    assert len(tokens_of(each)) == 8


@pytest.mark.parametrize("level", [0, 3, "1", None])
def test_levels_that_there_are_not(engine: Build, level: Any) -> None:
    each = engine()
    with pytest.raises(InvalidRequestError, match=f"must be 1 or 2, got {level!r}"):
        each.sleep(level)
    assert not each.is_sleeping


def test_running_sequences_are_named_or_dropped(engine: Build) -> None:
    each = engine(overlap=True)
    for name in ("running", "other"):
        each.add(name, PROMPT, greedy(30))
    each.step()
    with pytest.raises(EngineBusyError, match="2 requests go on: 'running', 'other'"):
        each.sleep()
    assert not each.is_sleeping
    each.step()
    each.sleep(abort=True)
    assert each.is_sleeping and not each.has_work and each.stats().running == 0
    each.wake()
    assert len(tokens_of(each)) == 8
    many = [f"s{number}" for number in range(20)]
    for name in many:
        each.add(name, PROMPT, greedy())
    with pytest.raises(EngineBusyError, match=r"20 requests go on: 's0',.* 's7', \.\.\.$"):
        each.sleep()
    assert run_to_end(each).keys() == set(many)


def test_a_closed_engine_neither_sleeps_nor_wakes(engine: Build) -> None:
    each = engine()
    each.sleep()
    each.close()
    for verb in (each.sleep, each.wake):
        with pytest.raises(EngineClosedError):
            verb()


def test_lower_tiers_keep_what_the_device_loses(engine: Build) -> None:
    """With room below, everything preserved is found again after the sleep; without, the loss is told."""
    prompt = [(7 * i) % 300 + 3 for i in range(64)]
    alone = engine(block_size=8)
    expected = tokens_of(alone, prompt)
    assert alone.stats().cached_blocks == 8 and alone.sleep() == 8
    each = engine(block_size=8, host_cache_bytes=1 << 20, file_cache_bytes=1 << 20)
    assert tokens_of(each, prompt) == expected
    for level in (1, 2):
        assert each.sleep(level) == 0
        each.check_invariants()
        assert each.stats().cached_blocks == 0
        each.wake()
        before = each.stats().prefix_hit_tokens
        assert tokens_of(each, prompt) == expected
        assert each.stats().prefix_hit_tokens - before == 56


def test_contexts_outlive_a_sleep(engine: Build) -> None:
    each = engine(block_size=8)
    each.add("first", PROMPT, greedy())
    each.preserve("first", "book", 60.0)
    run_to_end(each)
    expected = tokens_of(each, [5, 6], context_id="book")
    each.sleep(2)
    each.wake()
    assert tokens_of(each, [5, 6], context_id="book") == expected


def test_a_model_that_is_gone_or_another_leaves_it_asleep(models: Build, engine: Build, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(models(), tmp_path / "model"))
    each = engine(folder)
    expected = tokens_of(each)
    each.sleep(2)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(json.dumps({**json.loads(config), "rope_theta": 5.0}))
    with pytest.raises(CheckpointChangedError, match="config.json changed on disk, it has become another model"):
        each.wake()
    weights = folder / "model.safetensors"
    weights.rename(folder / "elsewhere")
    (folder / "config.json").write_text(config)
    with pytest.raises(CheckpointError):
        each.wake()
    assert each.is_sleeping
    (folder / "elsewhere").rename(weights)
    each.wake()
    assert tokens_of(each) == expected


def test_two_engines_over_one_loaded_model(models: Build) -> None:
    """What a template loaded is shared: one engine's deep sleep does not take it from the other."""
    from flowserve import Engine, EngineConfig
    from flowserve.models.loader import load_model
    from flowserve.tokenizer import Tokenizer

    config = EngineConfig(num_threads=1)
    loaded, tokenizer = load_model(models(), config), Tokenizer.from_folder(models())
    first, second = Engine(loaded, tokenizer, config), Engine(loaded, tokenizer, config)
    expected = tokens_of(first)
    first.sleep(2)
    assert tokens_of(second) == expected
    first.wake()
    assert tokens_of(first) == expected


def test_llm(llm: Build) -> None:
    each = llm()
    (before,) = each.generate([PROMPT], greedy())
    each.sleep(level=2)
    assert each.is_sleeping
    with pytest.raises(EngineAsleepError):
        each.generate([PROMPT], greedy())
    each.wake_up()
    (after,) = each.generate([PROMPT], greedy())
    assert after.outputs == before.outputs
    for _ in each.stream(PROMPT, greedy(50)):
        with pytest.raises(EngineBusyError):
            each.sleep()
        break
    each.sleep()
    each.wake_up()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("asleep", [False, True])
def test_a_closed_engine_holds_nothing_of_the_device(models: Build, backend: str, asleep: bool) -> None:
    from flowserve import Engine, EngineConfig

    def used() -> Any:
        each = Engine.from_folder(models(), EngineConfig(num_threads=3, cpu_backend=backend, overlap=True))
        tokens_of(each)
        return each

    used().close()  # torch keeps the threads that it once had
    gc.collect()
    before = threads()
    each = used()
    runner, storage = weakref.ref(each._hold.runner), weakref.ref(each._hold.runner.storage)
    assert threads() - before
    if asleep:
        each.sleep()
    each.close()
    assert runner() is None and storage() is None
    wait_for(lambda: not threads() - before)
    each.close()
    assert each.stats().free_blocks == each.stats().total_blocks
