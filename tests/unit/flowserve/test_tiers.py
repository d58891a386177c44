"""Blocks below the device: the same greedy tokens wherever the KV of a prompt has been in between."""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowserve import SamplingParams
from flowserve.cost_model import TERMS, CostModel
from flowserve.errors import InvalidConfigError, StepLogError
from flowserve.rtc.mover import Mover
from flowserve.rtc.moves import Move, Tier
from flowserve.rtc.rules import ALWAYS_FETCH, CostView, MeasuredCosts
from flowserve.rtc.tier_storage import BlockFile, BlockLostError, HostArena
from tests.unit.flowserve.running import run_to_end

Build = Callable[..., Any]
SMALL = {"block_size": 4, "num_kv_blocks": 24, "max_model_len": 90}
BACKENDS = ["extension", "torch"]
PROMPTS = [[11 + i] * 5 + list(range(20 + i, 40 + i)) for i in range(5)]


@pytest.fixture
def always_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fetching and computing cost is measured, and no matter here."""
    monkeypatch.setattr(MeasuredCosts, "view", lambda self: ALWAYS_FETCH)


def tokens_of(engine: Any, prompts: list[list[int]], max_tokens: int = 30) -> list[list[int]]:
    for index, prompt in enumerate(prompts):
        engine.add(str(index), prompt, SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True))
    results = run_to_end(engine)
    return [results[str(index)]["tokens"] for index in range(len(prompts))]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("overlap", [False, True])
def test_preempted_sequences_are_swapped_and_go_on(
    engine: Build, always_fetch: None, backend: str, overlap: bool
) -> None:
    expected = tokens_of(engine(block_size=4, cpu_backend=backend), PROMPTS)
    tight = engine(**SMALL, cpu_backend=backend, overlap=overlap, host_cache_bytes=2**20)
    assert tokens_of(tight, PROMPTS) == expected
    stats = tight.stats()
    assert stats.num_preemptions > 0
    assert stats.cache.hit_tokens[Tier.HOST] > 0 and stats.cache.populates > 0
    assert stats.cache.failed_moves == {} and stats.free_blocks == stats.total_blocks


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kv_cache_dtype", ["float32", "int8"])
def test_prompts_come_back_from_the_file(
    engine: Build, always_fetch: None, backend: str, kv_cache_dtype: str, tmp_path: Path
) -> None:
    if backend == "torch" and kv_cache_dtype == "int8":
        pytest.skip("the torch operators have no int8 KV")
    options = {"cpu_backend": backend, "kv_cache_dtype": kv_cache_dtype}
    expected = [tokens_of(engine(block_size=4, **options), [prompt], 8)[0] for prompt in PROMPTS]
    each = filed(engine, tmp_path, **options)
    for _ in range(2):
        assert [tokens_of(each, [prompt], 8)[0] for prompt in PROMPTS] == expected
    cache = each.stats().cache
    assert cache.moved_blocks[Tier.HOST, Tier.FILE] > 0 and cache.hit_tokens[Tier.FILE] > 0
    assert cache.failed_moves == {}
    assert list(tmp_path.iterdir()) == [], "the file has no name, so that nothing has to remove it"


def filed(engine: Build, folder: Path, **options: Any) -> Any:
    """An engine with room for one prompt on the device, one and a half in memory, all in the file."""
    probe = engine(block_size=4, num_kv_blocks=24, max_model_len=90, **options)
    block_bytes = probe._worker._runner.storage.block_bytes
    return engine(
        block_size=4,
        num_kv_blocks=9,
        max_model_len=36,
        host_cache_bytes=16 * block_bytes,
        file_cache_bytes=200 * block_bytes,
        file_cache_folder=folder,
        **options,
    )


@pytest.mark.parametrize("harm", ["truncated", "damaged", "full"])
def test_a_broken_file_costs_time_and_no_tokens(
    engine: Build,
    always_fetch: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    harm: str,
) -> None:
    caplog.set_level(logging.WARNING, "flowserve")
    expected = [tokens_of(engine(block_size=4), [prompt], 8)[0] for prompt in PROMPTS]
    each = filed(engine, tmp_path)
    if harm == "full":

        def no_space(*_: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "pwrite", no_space)
    first = [tokens_of(each, [prompt], 8)[0] for prompt in PROMPTS]
    descriptor = each._traffic._mover._block_file.fileno()
    if harm == "truncated":
        os.ftruncate(descriptor, 1)
    elif harm == "damaged":
        size = os.fstat(descriptor).st_size
        os.pwrite(descriptor, b"\x55" * size, 0)
    assert first == expected
    assert [tokens_of(each, [prompt], 8)[0] for prompt in PROMPTS] == expected
    words = {"truncated": "file tier is", "damaged": "is damaged", "full": "No space left"}[harm]
    failed = each.stats().cache.failed_moves
    assert [reason for reason in failed if words in reason], failed
    told = [record.message for record in caplog.records if words in record.message]
    assert len(told) == len(set(told)), "each reason is told once"


def test_the_rule_may_say_recompute(engine: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    dear = CostView(1e-6, {Tier.HOST: 1.0, Tier.FILE: 1.0})
    monkeypatch.setattr(MeasuredCosts, "view", lambda self: dear)
    expected = tokens_of(engine(block_size=4), PROMPTS)
    tight = engine(**SMALL, host_cache_bytes=2**20)
    assert tokens_of(tight, PROMPTS) == expected
    cache = tight.stats().cache
    assert cache.demoted_blocks > 0 and cache.populates == 0


def test_costs_are_measured(engine: Build) -> None:
    tight = engine(**SMALL, host_cache_bytes=2**20)
    estimate = tight._traffic._costs.view()
    tokens_of(tight, PROMPTS)
    assert tight._traffic._costs.view().recompute_s_per_token != estimate.recompute_s_per_token


@pytest.mark.parametrize("token_ms, fetches", [(50.0, True), (0.0, False)])
def test_a_cost_model_decides(engine: Build, tmp_path: Path, token_ms: float, fetches: bool) -> None:
    plain = engine(block_size=4, step_log=True)
    coefficients = {**dict.fromkeys(TERMS, 0.0), "further_token": token_ms}
    model = CostModel(coefficients=coefficients, knee=1, setting=plain.step_log.setting)
    model.save(tmp_path / "cost.json")
    expected = tokens_of(plain, PROMPTS)
    tight = engine(**SMALL, host_cache_bytes=2**20, cost_model=tmp_path / "cost.json")
    assert tokens_of(tight, PROMPTS) == expected
    assert tight._traffic._costs.view().recompute_s_per_token == pytest.approx(token_ms / 1000, rel=0.01)
    assert (tight.stats().cache.populates > 0) == fetches


def test_cost_models_that_are_refused(engine: Build, models: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "cost.json"
    with pytest.raises(StepLogError, match="cost.json"):
        engine(cost_model=path)
    own = engine(step_log=True).step_log.setting

    def save(**changes: Any) -> None:
        setting = msgspec.structs.replace(own, **changes)
        CostModel(coefficients=dict.fromkeys(TERMS, 0.0), knee=1, setting=setting).save(path)

    save(model="of another name", chunk=64, block_size=8)  # steps of one length take as long
    engine(cost_model=path)
    for name, other in (("device", "npu"), ("num_threads", 7), ("kv_cache_dtype", "int8"), ("shape", (1, 2, 3))):
        save(**{name: other})
        with pytest.raises(InvalidConfigError, match=f"{name} is {re.escape(repr(other))}, here "):
            engine(cost_model=path)
    save()
    with pytest.raises(InvalidConfigError, match="kv_cache_dtype is 'float32', here 'int8'"):
        engine(cost_model=path, kv_cache_dtype="int8")
    with pytest.raises(InvalidConfigError, match="shape is .*, here .*"):
        engine(models(hidden_size=96), cost_model=path)


def test_a_file_tier_larger_than_any_disk_takes_what_there_is(engine: Build, always_fetch: None) -> None:
    expected = tokens_of(engine(block_size=4), PROMPTS)
    tight = engine(**SMALL, host_cache_bytes=2**16, file_cache_bytes=10**17)
    assert tokens_of(tight, PROMPTS) == expected
    assert tight.stats().cache.failed_moves == {}


def with_fetches_held(engine: Build, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[int], Callable[[], None]]:
    """An engine whose host has the first prompt, the prompt's tokens, and how to let moves to the device begin."""
    each = engine(block_size=4, num_kv_blocks=24, max_model_len=60, host_cache_bytes=2**20)
    (expected,) = tokens_of(each, [PROMPTS[0]], 3)
    for prompt in PROMPTS[1:]:
        tokens_of(each, [prompt * 2], 3)
    mover = each._traffic._mover
    submit, never = mover.submit, 10**9
    monkeypatch.setattr(mover, "submit", lambda moves, after_step: submit(moves, never))

    def let_go() -> None:
        monkeypatch.undo()
        monkeypatch.setattr(MeasuredCosts, "view", lambda self: ALWAYS_FETCH)
        mover.step_done(never)

    return each, expected, let_go


def test_others_go_on_while_a_sequence_waits_for_its_blocks(
    engine: Build, always_fetch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    each, expected, let_go = with_fetches_held(engine, monkeypatch)
    each.add("waits", PROMPTS[0], SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True))
    each.add("goes on", [7, 8, 9], SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True))
    finished: set[str] = set()
    while "goes on" not in finished:
        finished |= {output.sequence_id for output in each.step() if output.finished}
        each.check_invariants()
    assert finished == {"goes on"} and each.stats().waiting == 1
    assert each.step() == [], "nothing to compute, and no busy loop: it waits a while for a move"
    let_go()
    assert run_to_end(each)["waits"]["tokens"] == expected


def test_a_sequence_that_ends_while_it_waits_leaves_no_trace(
    engine: Build, always_fetch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    each, expected, let_go = with_fetches_held(engine, monkeypatch)
    each.add("waits", PROMPTS[0], SamplingParams(max_tokens=3))
    each.step()
    assert each.stats().waiting == 1
    each.abort("waits")
    each.check_invariants()
    assert each.stats().free_blocks < each.stats().total_blocks, "blocks that are being filled are nobody else's"
    let_go()
    assert tokens_of(each, [PROMPTS[0]], 3) == [expected]
    ends_s = time.monotonic() + 20
    while each.stats().free_blocks < each.stats().total_blocks and time.monotonic() < ends_s:
        tokens_of(each, [[5]], 1)
    assert each.stats().free_blocks == each.stats().total_blocks


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"host_cache_bytes": 10}, "host_cache_bytes 10 holds no KV block"),
        ({"host_cache_bytes": 0}, "host_cache_bytes must be at least 1"),
        ({"file_cache_bytes": 10**6}, "file_cache_bytes needs host_cache_bytes"),
        ({"host_cache_bytes": 10**6, "file_cache_bytes": 10}, "file_cache_bytes 10 holds no KV block"),
        ({"host_cache_bytes": 10**6, "enable_prefix_caching": False}, "enable_prefix_caching"),
        ({"context_cache_share": 1.5}, "context_cache_share must be 0 to 1, got 1.5"),
        (
            {"host_cache_bytes": 10**6, "file_cache_bytes": 10**6, "file_cache_folder": "/nowhere/at/all"},
            "'/nowhere/at/all' cannot be used: No such file",
        ),
    ],
)
def test_tiers_that_cannot_be(engine: Build, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidConfigError, match=words):
        engine(**options)


def test_an_engine_without_tiers_has_no_thread_and_one_with_them_ends_it(engine: Build, always_fetch: None) -> None:
    before = set(threading.enumerate())  # those of engines that earlier tests dropped may end meanwhile
    tokens_of(engine(**SMALL, overlap=False), PROMPTS)
    tight = engine(**SMALL, host_cache_bytes=2**20, overlap=False)
    assert set(threading.enumerate()) <= before, "no move, no thread"
    tokens_of(tight, PROMPTS)
    assert not set(threading.enumerate()) <= before
    tight.close()
    assert set(threading.enumerate()) <= before


# --- the executor's parts -------------------------------------------------------------------------------


class Blocks:
    """Storage of one-byte blocks that notes what was done to it."""

    block_bytes = 1

    def __init__(self, num_blocks: int) -> None:
        self.content = bytearray(range(num_blocks))
        self.log: list[tuple[str, int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def read_block(self, block: int, buffer: memoryview) -> None:
        self.gate.wait(20)
        self.log.append(("read", block))
        buffer[0] = self.content[block]

    def write_block(self, block: int, buffer: memoryview) -> None:
        self.log.append(("write", block))
        self.content[block] = buffer[0]

    def copy_block(self, source: int, target: int) -> None:
        self.content[target] = self.content[source]


def results(mover: Mover, num: int) -> list[str | None]:
    found: list[Any] = []
    ends_s = time.monotonic() + 20
    while len(found) < num and time.monotonic() < ends_s:
        mover.wait_for_result(1.0)
        found += mover.take_results()
    return [result.error for result in found]


def test_the_mover_reads_before_the_batch_and_writes_after_the_step() -> None:
    storage = Blocks(4)
    mover = Mover(storage, HostArena(2, 1), None)
    storage.gate.clear()
    mover.submit([Move(0, Tier.DEVICE, 3, Tier.HOST, 1), Move(1, Tier.HOST, 1, Tier.DEVICE, 0)], after_step=1)
    reads_done = threading.Event()
    waiter = threading.Thread(target=lambda: (mover.wait_for_reads(), reads_done.set()))
    waiter.start()
    assert not reads_done.wait(0.05)
    storage.gate.set()
    assert reads_done.wait(20) and storage.log == [("read", 3)]
    mover.submit([Move(2, Tier.DEVICE, 2, Tier.HOST, 0)], after_step=1)
    assert results(mover, 2) == [None, None] and ("write", 0) not in storage.log, "step 1 may still write there"
    mover.step_done(1)
    assert results(mover, 1) == [None] and storage.content[0] == 3
    mover.close()
    waiter.join()


def test_what_was_lost_fails_until_it_is_written_again(tmp_path: Path) -> None:
    storage = Blocks(4)
    file = BlockFile(tmp_path, 1)
    mover = Mover(storage, HostArena(2, 1), file)
    mover.submit([Move(0, Tier.FILE, 0, Tier.DEVICE, 0)], 0)
    (first,) = results(mover, 1)
    assert first and "shorter" in first
    mover.submit([Move(1, Tier.DEVICE, 1, Tier.HOST, 0), Move(2, Tier.HOST, 0, Tier.FILE, 0)], 0)
    mover.submit([Move(3, Tier.FILE, 0, Tier.DEVICE, 2)], 0)
    assert results(mover, 3) == [None, None, None] and storage.content[2] == 1
    os.close(file.fileno())
    mover.submit([Move(4, Tier.HOST, 0, Tier.FILE, 1), Move(5, Tier.FILE, 1, Tier.DEVICE, 3)], 0)
    write, read = results(mover, 2)
    assert write and "Bad file descriptor" in write and read == "an earlier move of the block failed"
    file._descriptor = -1
    mover.close()


def test_a_block_file_gives_back_what_was_written_or_says_so(tmp_path: Path) -> None:
    file = BlockFile(tmp_path, 4)
    buffer = memoryview(bytearray(4))
    file.write(2, memoryview(b"abcd"))
    file.read(2, buffer)
    assert bytes(buffer) == b"abcd"
    with pytest.raises(BlockLostError, match="damaged"):
        file.read(0, buffer)  # a hole, never written
    os.pwrite(file.fileno(), b"x", 9)
    with pytest.raises(BlockLostError, match="damaged"):
        file.read(2, buffer)
    file.close()
    file.close()


def test_a_mover_may_be_closed_by_its_own_thread() -> None:
    """Which may be the one that collects a dropped engine."""

    class Closing(Blocks):
        def read_block(self, block: int, buffer: memoryview) -> None:
            mover.close()
            super().read_block(block, buffer)

    mover = Mover(Closing(4), HostArena(2, 1), None)
    mover.submit([Move(0, Tier.DEVICE, 3, Tier.HOST, 1)], after_step=0)
    assert results(mover, 1) == [None]
    mover.close()
