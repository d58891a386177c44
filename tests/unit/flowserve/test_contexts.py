"""Contexts, tenants and forks in the engine: less is computed, the tokens are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowserve import Engine, EngineConfig, SamplingParams
from flowserve.errors import (
    InvalidContextError,
    InvalidRequestError,
    PromptTooLongError,
    UnknownContextError,
    UnknownSequenceError,
)
from flowserve.models.loader import load_model
from flowserve.scheduling import Scheduler
from flowserve.tokenizer import Tokenizer
from tests.unit.flowserve.running import run_to_end

Build = Callable[..., Any]
START = [41] * 3 + list(range(60, 81))  # 24 tokens, 6 blocks
END = [7, 8, 9]


def greedy(max_tokens: int = 6, **params: Any) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True, **params)


def tokens(engine: Any, prompt: list[int], **options: Any) -> list[int]:
    engine.add("a", prompt, greedy(), **options)
    return run_to_end(engine)["a"]["tokens"]


def preserve(engine: Any, context_id: str, prompt: list[int], ttl_s: float = 60.0, **options: Any) -> None:
    with_output = options.pop("with_output", False)
    engine.add("p", prompt, greedy(4), **options)
    engine.preserve("p", context_id, ttl_s, with_output=with_output)
    run_to_end(engine)


def hits(engine: Any) -> int:
    return engine.stats().prefix_hit_tokens


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def timed(models: Build) -> tuple[Any, Clock]:
    """An engine whose time stands still until somebody moves it."""
    config, clock = EngineConfig(num_threads=1, block_size=4, max_model_len=64, num_kv_blocks=32), Clock()
    loaded = load_model(models(), config)
    return Engine(loaded, Tokenizer.from_folder(models()), config, clock), clock


def test_a_prompt_continues_a_context(engine: Build) -> None:
    expected = tokens(engine(block_size=4), START + END)
    each = engine(block_size=4, max_model_len=64)
    preserve(each, "c", START)
    before = hits(each)
    assert tokens(each, END, context_id="c") == expected
    assert hits(each) - before == len(START)
    stats = each.stats()
    assert (stats.num_contexts, stats.pinned_blocks) == (1, 6)
    assert stats.free_blocks == stats.total_blocks - 6


def test_tokens_of_a_context_that_another_engine_computed(timed: tuple[Any, Clock], engine: Build) -> None:
    expected = tokens(engine(block_size=4), START + END)
    each, clock = timed
    for hit_tokens, pinned_blocks in ((0, 0), (len(START), 6), (len(START), 6)):
        before = hits(each)
        each.add_context("c", START, 10.0)
        assert tokens(each, END, context_id="c") == expected
        assert (hits(each) - before, each.stats().pinned_blocks) == (hit_tokens, pinned_blocks)
        clock.now_s += 9.0
    each.add_context("c", START[:8], 10.0)  # the name means other tokens now
    assert tokens(each, START[8:] + END, context_id="c") == expected
    clock.now_s += 11.0
    each.add_context("c", START, 10.0)
    assert each.stats().num_contexts == 1
    with pytest.raises(InvalidContextError):
        each.add_context("d", [], 10.0)


def test_a_conversation_goes_on(engine: Build) -> None:
    each = engine(block_size=4)
    first = tokens(each, START)
    expected = tokens(each, START + first[:4] + END)
    each = engine(block_size=4)
    preserve(each, "c", START, with_output=True)
    assert tokens(each, END, context_id="c") == expected


def test_a_context_outlives_its_blocks(engine: Build) -> None:
    expected = tokens(engine(block_size=4), START + END)
    each = engine(block_size=4, max_model_len=64, num_kv_blocks=16, context_cache_share=0.0)
    preserve(each, "c", START)
    assert each.stats().pinned_blocks == 0
    tokens(each, list(range(100, 158)))  # takes every block
    before = hits(each)
    assert tokens(each, END, context_id="c") == expected
    assert hits(each) == before, "all was computed again"


def test_pinned_contexts_do_not_keep_a_sequence_from_running(engine: Build) -> None:
    """Everything is pinned and one request needs the whole cache: the contexts' blocks yield."""
    expected = tokens(engine(block_size=4), list(range(100, 158)))
    each = engine(block_size=4, max_model_len=64, num_kv_blocks=16, context_cache_share=1.0)
    preserve(each, "c", START)
    preserve(each, "d", [9] * 30)
    assert each.stats().pinned_blocks > 12
    assert tokens(each, list(range(100, 158))) == expected
    assert each.stats().num_contexts == 2
    preserve(each, "e", [9] * 4)
    each.add("grows", [5], greedy(60))  # admitted at once, short of blocks later
    assert len(run_to_end(each)["grows"]["tokens"]) == 60


def test_contexts_end(timed: tuple[Any, Clock]) -> None:
    each, clock = timed
    preserve(each, "c", START, ttl_s=10.0)
    clock.now_s += 9.0
    tokens(each, END, context_id="c")  # it lives on from here
    clock.now_s += 9.0
    tokens(each, END, context_id="c")
    clock.now_s += 11.0
    with pytest.raises(UnknownContextError, match="'c'.* expired"):
        each.add("b", END, context_id="c")
    assert not each.has_work
    preserve(each, "c", START, ttl_s=10.0)
    assert each.stats().pinned_blocks == 6
    clock.now_s += 11.0
    tokens(each, END)
    assert (each.stats().pinned_blocks, each.stats().num_contexts) == (0, 0), "each step looks for those that expired"
    preserve(each, "c", START)
    each.delete_context("c")
    with pytest.raises(UnknownContextError):
        each.delete_context("c")
    assert each.stats().free_blocks == each.stats().total_blocks
    each.check_invariants()


def test_another_time_to_live_is_every_tenants(timed: tuple[Any, Clock]) -> None:
    each, clock = timed
    for salt in ("a", "b"):
        preserve(each, "c", START, ttl_s=10.0, cache_salt=salt)
    preserve(each, "d", END * 2, ttl_s=10.0)
    each.set_context_ttl("c", 2.0)
    each.set_context_ttl("d", 100.0)
    each.set_context_ttl("nobody's", 5.0)
    clock.now_s += 1.0
    tokens(each, END, context_id="c", cache_salt="b")  # it lives on for the new time
    clock.now_s += 1.0
    tokens(each, END)
    assert each.stats().num_contexts == 2
    clock.now_s += 18.0
    tokens(each, END)
    assert (each.stats().num_contexts, each.num_pinned_blocks) == (1, 1)
    for salt in ("a", "b"):
        preserve(each, "c", START, cache_salt=salt)
    assert each.num_pinned_blocks == 13
    for context_id in ("c", "d", "nobody's"):
        each.set_context_ttl(context_id, 0)
    assert (each.stats().num_contexts, each.num_pinned_blocks) == (0, 0)
    for ttl_s in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InvalidContextError, match="'c'"):
            each.set_context_ttl("c", ttl_s)
    each.check_invariants()


def test_bad_contexts(engine: Build) -> None:
    each = engine(block_size=4, max_model_len=32)
    each.add("good", START, greedy())
    for sequence_id, context_id, ttl_s, error in [
        ("nobody", "c", 1.0, UnknownSequenceError),
        ("good", "", 1.0, InvalidContextError),
        ("good", "c", 0, InvalidContextError),
        ("good", "c", float("nan"), InvalidContextError),
        ("good", "c", "soon", InvalidContextError),
    ]:
        with pytest.raises(error):
            each.preserve(sequence_id, context_id, ttl_s)
    with pytest.raises(UnknownContextError, match="'never'"):
        each.add("b", END, context_id="never")
    assert len(run_to_end(each)["good"]["tokens"]) == 6
    preserve(each, "c", START)
    with pytest.raises(PromptTooLongError, match="prompt of 34 tokens"):
        each.add("b", [3] * 10, context_id="c")


def test_tenants_do_not_see_each_others_hits(engine: Build) -> None:
    each = engine(block_size=4)
    expected = tokens(each, START + END, cache_salt="one")
    for salt, found in (("one", 24), ("two", 0), (None, 0), ("two", 24), (None, 24)):
        before = hits(each)
        assert tokens(each, START + END, cache_salt=salt) == expected
        assert hits(each) - before == found
    preserve(each, "c", START, cache_salt="one")
    with pytest.raises(UnknownContextError):
        each.add("b", END, context_id="c", cache_salt="two")
    with pytest.raises(UnknownContextError):
        each.add("b", END, context_id="c")
    assert tokens(each, END, context_id="c", cache_salt="one") == expected
    for salt in ("", 7):
        with pytest.raises(InvalidRequestError, match="cache_salt"):
            each.add("b", END, cache_salt=salt)


def completions(
    engine: Any, requests: dict[str, list[int]], num: int, max_tokens: int = 6
) -> dict[tuple[str, int], list[int]]:
    for request_id, prompt in requests.items():
        engine.add(request_id, prompt, SamplingParams(n=num, seed=5, max_tokens=max_tokens, ignore_eos=True))
    results: dict[tuple[str, int], list[int]] = {}
    while engine.has_work:
        for output in engine.step():
            results.setdefault((output.sequence_id, output.index), []).extend(output.token_ids)
        engine.check_invariants()
    return results


@pytest.fixture
def unforked(engine: Build, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What `completions` gives where each sequence computes its whole prompt itself."""

    def run(
        requests: dict[str, list[int]], num: int, max_tokens: int = 6, **options: Any
    ) -> dict[tuple[str, int], list[int]]:
        with monkeypatch.context() as patch:
            patch.setattr(Scheduler, "_fork", lambda *_: None)
            each = engine(enable_prefix_caching=False, **options)
            results = completions(each, requests, num, max_tokens)
            assert hits(each) == 0
            return results

    return run


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("backend", ["extension", "torch"])
@pytest.mark.parametrize("num_prompt", [1, 3, 8, 13, 24])
def test_forks_share_the_prompt_and_copy_on_write(
    engine: Build, unforked: Callable[..., Any], num_prompt: int, backend: str, overlap: bool
) -> None:
    options = {"block_size": 4, "cpu_backend": backend}
    requests = {"a": START[:num_prompt]}
    expected = unforked(requests, 4, **options)
    assert len(set(map(tuple, expected.values()))) == 4
    each = engine(**options, overlap=overlap)
    copied: list[tuple[int, int]] = []
    execute = each._worker.execute
    each._worker.execute = lambda batch: copied.extend(batch.copies) or execute(batch)
    assert completions(each, requests, 4) == expected
    assert hits(each) == 3 * (num_prompt - 1), "all but the last token is shared"
    assert bool(copied) == ((num_prompt - 1) % 4 != 0)
    assert each.stats().free_blocks == each.stats().total_blocks


def test_forks_when_blocks_are_short(engine: Build, unforked: Callable[..., Any]) -> None:
    requests = {"a": START, "b": END + START}
    each = engine(block_size=4, num_kv_blocks=16, max_model_len=64)
    assert completions(each, requests, 5, 30) == unforked(requests, 5, 30, block_size=4)
    assert each.stats().num_preemptions > 0
