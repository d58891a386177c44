"""Models whose every layer sees a window: what lies behind it is given back, and the tokens stay the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowserve import SamplingParams
from flowserve.rtc.cache import RelationalTensorCache
from flowserve.scheduling import Scheduler, SchedulerConfig
from tests.unit.flowserve.pretended import Run
from tests.unit.flowserve.running import run_to_end

INT8 = {"quantization": "int8", "kv_cache_dtype": "int8"}
WINDOW, BLOCK = 21, 4  # of the tiny Mistral; and far smaller than its prompts
PROMPTS = [[3 + (7 * i + j) % 150 for j in range(70 + 9 * i)] for i in range(4)]


def greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)


def run(engine: Any, prompts: list[list[int]], max_tokens: int = 40) -> tuple[list[list[int]], int]:
    """The tokens, and how many blocks were held at most after a step."""
    tokens: dict[str, list[int]] = {str(index): [] for index in range(len(prompts))}
    for index, prompt in enumerate(prompts):
        engine.add(str(index), prompt, greedy(max_tokens))
    most = 0
    while engine.has_work:
        for output in engine.step():
            tokens[output.sequence_id] += output.token_ids
        engine.check_invariants()
        stats = engine.stats()
        most = max(most, stats.total_blocks - stats.free_blocks)
    return list(tokens.values()), most


@pytest.mark.parametrize("backend", ["extension", "torch"])
@pytest.mark.parametrize(
    "options", [{}, {"enable_prefix_caching": False}, {"overlap": True}, {"speculative_tokens": 3}, INT8]
)
def test_the_pool_holds_windows_and_the_tokens_are_the_same(
    engine: Callable[..., Any], models: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, backend: str, options: Any
) -> None:
    folder = models("mistral")
    shape = {"block_size": BLOCK, "max_num_batched_tokens": 16, "cpu_backend": backend, **options}
    with monkeypatch.context() as keeping:
        keeping.setattr("flowserve.rtc.tables.BlockTables._num_unseen", lambda self, num_tokens: 0)
        expected, kept = run(engine(folder, **shape), PROMPTS)
    each = engine(folder, **shape)
    found, held = run(each, PROMPTS)
    assert found == expected
    in_flight = 16 * (2 if options.get("overlap") else 1)
    bound = sum(-(-(WINDOW + in_flight + 3) // BLOCK) + 1 for _ in PROMPTS)
    assert held <= bound and held < kept / 2
    assert run(each, PROMPTS)[0] == expected  # with what is preserved of them
    assert each.stats().free_blocks == each.stats().total_blocks


def test_more_sequences_fit_than_their_lengths_say(engine: Callable[..., Any], models: Callable[..., Path]) -> None:
    folder = models("mistral")
    expected = run(engine(folder, block_size=BLOCK), PROMPTS)[0]
    tight = engine(folder, block_size=BLOCK, num_kv_blocks=60, max_num_batched_tokens=16)  # they have 134 in all
    assert run(tight, PROMPTS)[0] == expected
    assert tight.stats().num_preemptions == 0


@pytest.mark.parametrize("options", [{}, {"overlap": True}, {"host_cache_bytes": 2**17}])
def test_after_preemption(engine: Callable[..., Any], models: Callable[..., Path], options: dict[str, Any]) -> None:
    prompts = [prompt[:60] for prompt in PROMPTS]
    expected = run(engine(models("mistral"), block_size=BLOCK), prompts)[0]
    shape = {"num_kv_blocks": 25, "max_model_len": 100, "max_num_batched_tokens": 16}
    tight = engine(models("mistral"), block_size=BLOCK, **shape, **options)
    assert run(tight, prompts)[0] == expected
    assert tight.stats().num_preemptions > 0


def test_forks_share_what_is_within_the_window(engine: Callable[..., Any], models: Callable[..., Path]) -> None:
    each = engine(models("mistral"), block_size=BLOCK, max_num_batched_tokens=16)
    params = SamplingParams(temperature=0.01, n=3, seed=1, max_tokens=12, ignore_eos=True)
    each.add("a", PROMPTS[0], params)
    tokens: dict[int, list[int]] = {}
    while each.has_work:
        for output in each.step():
            tokens.setdefault(output.index, []).extend(output.token_ids)
        each.check_invariants()
    hits = each.stats().prefix_hit_tokens
    each.add("b", PROMPTS[0], greedy(12))  # so cold that nothing else could be drawn
    alone = run_to_end(each)["b"]["tokens"]
    assert [tokens[index] for index in range(3)] == [alone] * 3
    assert hits == 2 * (len(PROMPTS[0]) - 1)


def test_a_layer_without_a_window_keeps_all(engine: Callable[..., Any], models: Callable[..., Path]) -> None:
    config = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}
    each = engine(models("qwen2", **config), block_size=BLOCK, max_num_batched_tokens=16)
    assert run(each, PROMPTS[:1])[1] == -(-(len(PROMPTS[0]) + 38) // BLOCK)  # with its last step it is gone


def test_a_prefix_whose_start_left_is_found_no_more() -> None:
    """Window 4 over blocks of 2: the first blocks are given back and, when their room is needed, the rest goes too."""
    cache = RelationalTensorCache(6, 2, window=4)
    tokens = list(range(10))
    assert cache.alloc_blocks("a", 10)
    cache.tables.computed("a", tokens, 10)
    assert cache.num_free_blocks == 1 + 3 and cache.num_cached_blocks == 5
    assert cache.match_by_prefix_token([*tokens, 1]).num_tokens == 10
    assert cache.alloc_blocks("b", 4)  # the free one and the first that "a" has let go
    assert cache.num_cached_blocks == 0 and cache.match_by_prefix_token([*tokens, 1]).num_tokens == 0
    assert cache.alloc_blocks("a", 12, write_from=10)
    cache.tables.computed("a", [*tokens, 10, 11], 12)
    assert cache.num_cached_blocks == 0, "nothing can be found behind a start that is gone"
    cache.check_invariants()
    for sequence_id in "ab":
        cache.free(sequence_id)
    cache.check_invariants()
    assert cache.num_free_blocks == 6


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("window", [1, 3, 4, 9])
def test_each_step_reads_what_its_queries_see(depth: int, window: int) -> None:
    cache = RelationalTensorCache(16, 4, window=window)
    each = Run(Scheduler(SchedulerConfig(4, 9), cache), depth, drafting=depth == 1)
    each.worker.window = window
    for index in range(8):
        each.add(f"s{index}", [1, 2, 3, 4, 5, 6, 7, 8, index % 3 + 1, *range(index)], 20 + index)
    each.drain()
    each.check_results()
