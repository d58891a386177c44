"""What is drawn from given logits."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowserve import SamplingParams
from flowserve.worker import sampler
from flowserve.worker.constraints import BadWordTable
from flowserve.worker.drawing import draw, largest
from flowserve.worker.logprobs import token_logprobs
from flowserve.worker.sampler import NO_NUMBERS, NO_TOKEN, derived_seed, sample, uniform
from flowserve.worker.sampler_state import SamplerState

LOGITS = [math.log(p) for p in (0.4, 0.3, 0.2, 0.06, 0.04)]


def state(seed: int = 0, tokens: list[int] | None = None, num_prompt: int = 1, **params: Any) -> SamplerState:
    return SamplerState(SamplingParams(**params), seed, tokens or [0], num_prompt, end_token_ids=(4,))


def draws(count: int = 2000, logits: list[float] = LOGITS, **params: Any) -> Counter[int]:
    states = [state(seed, **params) for seed in range(count)]
    return Counter(token.token_id for token in sample(torch.tensor([logits] * count), states))


def test_draws_follow_the_distribution() -> None:
    counts = draws(8000)
    for token_id, expected in enumerate((0.4, 0.3, 0.2, 0.06, 0.04)):
        assert counts[token_id] / 8000 == pytest.approx(expected, abs=0.02)


def test_temperature_sharpens_and_flattens() -> None:
    assert draws(temperature=0.25)[0] > 1300 > draws(temperature=1.0)[0] > 500 > draws(temperature=50.0)[0] > 300
    assert draws(temperature=1e-9) == {0: 2000}


@pytest.mark.parametrize(
    "params, allowed",
    [
        ({"top_k": 1}, {0}),
        ({"top_k": 2}, {0, 1}),
        ({"top_k": 99}, {0, 1, 2, 3, 4}),
        ({"top_k": -1}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.1}, {0}),
        ({"top_p": 0.5}, {0, 1}),
        ({"top_p": 0.71}, {0, 1, 2}),
        ({"min_p": 0.49}, {0, 1, 2}),
        ({"min_p": 0.6}, {0, 1}),
        ({"min_p": 1.0}, {0}),
        ({"top_k": 2, "top_p": 0.5}, {0}),  # of the 0.7 that top_k leaves, 0.4 is 57 %
        ({"min_tokens": 3}, {0, 1, 2, 3}),  # 4 is an end token
    ],
)
def test_truncation(params: dict[str, Any], allowed: set[int]) -> None:
    assert draws(**params).keys() == allowed


def test_each_row_has_its_own_parameters() -> None:
    rows = torch.tensor([LOGITS, LOGITS[::-1], LOGITS] * 300)
    kinds = [dict(temperature=0.0), dict(top_k=1), dict(top_p=0.71)]
    tokens = sample(rows, [state(i, **kinds[i % 3]) for i in range(900)])
    assert {t.token_id for t in tokens[0::3]} == {0}
    assert {t.token_id for t in tokens[1::3]} == {4}
    assert {t.token_id for t in tokens[2::3]} == {0, 1, 2}


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    def draw(seed: int, length: int, row: int, batch: int) -> int:
        states = [state(1000 + i) for i in range(batch)]
        states[row] = state(seed, tokens=[0] * length)
        return sample(torch.tensor([LOGITS] * batch), states)[row].token_id

    for seed in range(20):
        assert draw(seed, 5, 0, 1) == draw(seed, 5, 3, 7)
    assert len({tuple(draw(seed, length, 0, 1) for length in range(1, 9)) for seed in range(20)}) > 15


def test_uniform_looks_uniform() -> None:
    values = [uniform(seed, position) for seed in range(40) for position in range(50)]
    assert 0.0 <= min(values) and max(values) < 1.0
    buckets = Counter(int(value * 10) for value in values)
    assert all(140 < buckets[i] < 260 for i in range(10)), buckets
    assert len(set(values)) == len(values)


def test_penalties() -> None:
    logits = torch.tensor([[2.0, 1.9, -1.0, -1.1]])

    def greedy(tokens: list[int], num_prompt: int, **params: Any) -> int:
        return sample(logits.clone(), [state(0, tokens, num_prompt, temperature=0.0, **params)])[0].token_id

    assert greedy([0], 1) == 0
    assert greedy([0], 1, repetition_penalty=1.2) == 1, "counts the prompt"
    assert greedy([0], 1, presence_penalty=2.0) == 0, "counts the output only"
    assert greedy([3, 0], 1, presence_penalty=0.5) == 1
    assert greedy([3, 0, 0, 0], 1, frequency_penalty=0.04) == 1
    assert greedy([3, 0], 1, frequency_penalty=0.04) == 0
    assert greedy([3, 0, 1], 1, repetition_penalty=1.2) == 0


def test_logprobs_are_of_the_raw_logits() -> None:
    (token,) = sample(torch.tensor([LOGITS]), [state(3, logprobs=2, top_k=1, temperature=0.5)])
    assert token.logprobs is not None
    assert token.logprobs.logprob == pytest.approx(math.log(0.4))
    assert [token_id for token_id, _ in token.logprobs.top] == [0, 1]
    assert [value for _, value in token.logprobs.top] == pytest.approx([math.log(0.4), math.log(0.3)])


def test_ties_and_certainties() -> None:
    assert draws(logits=[-math.inf, 0.0, -math.inf, -math.inf]) == {1: 2000}
    counts = draws(4000, logits=[0.0, 0.0])
    assert abs(counts[0] - counts[1]) < 300


# --- constraints ----------------------------------------------------------------------------------------


def greedy(logits: list[float], tokens: list[int], num_prompt: int = 1, **params: Any) -> int:
    """The next token after `tokens`, where the others came one by one through `append`."""
    bad_words = BadWordTable(ids) if (ids := params.pop("bad_ids", ())) else None
    each = SamplerState(
        SamplingParams(temperature=0.0, **params), 0, tokens[:num_prompt], num_prompt, (4,), bad_words=bad_words
    )
    for token_id in tokens[num_prompt:]:
        each.append(token_id)
    grown = sample(torch.tensor([logits]), [each])[0].token_id
    whole = SamplerState(SamplingParams(temperature=0.0, **params), 0, list(tokens), num_prompt, (4,), None, bad_words)
    assert sample(torch.tensor([logits]), [whole])[0].token_id == grown, "known at once, or token by token"
    return grown


def test_logit_bias() -> None:
    logits = [2.0, 1.0, 0.0, 0.0, 0.0]
    assert greedy(logits, [0], logit_bias={1: 1.5}) == 1
    assert greedy(logits, [0], logit_bias={0: -100, 1: -100, 3: 0.1}) == 3
    assert draws(logit_bias={3: 100.0}) == {3: 2000}


def test_bad_words_of_one_and_of_several_tokens() -> None:
    logits = [5.0, 4.0, 3.0, 2.0, 1.0]
    assert greedy(logits, [9], bad_ids=[(0,)]) == 1
    words = [(0,), (1, 2, 1), (3, 1)]
    assert greedy(logits, [9], bad_ids=words) == 1, "a word may begin"
    assert greedy(logits, [9, 1, 2], bad_ids=words) == 2, "but not end"
    assert greedy(logits, [9, 1, 3], bad_ids=words) == 2
    assert greedy(logits, [1, 2], num_prompt=2, bad_ids=words) == 1, "the prompt is no output"
    long = [9, *range(5, 90), 1, 2]
    assert greedy(logits, long, bad_ids=words) == 2


def test_min_tokens_counts_the_output_alone() -> None:
    logits = [0.0, 0.0, 0.0, 1.0, 9.0]
    assert greedy(logits, [1, 1, 1], num_prompt=3, min_tokens=2) == 3
    assert greedy(logits, [1, 1], num_prompt=1, min_tokens=2) == 3
    assert greedy(logits, [1, 1, 1], num_prompt=1, min_tokens=2) == 4


@settings(max_examples=100, derandomize=True, deadline=None)
@given(
    tokens=st.lists(st.integers(0, 199), min_size=1, max_size=150),
    num_prompt=st.integers(1, 150),
    repetition=st.sampled_from([1.0, 0.5, 1.3]),
    presence=st.sampled_from([0.0, -0.5, 1.0]),
    frequency=st.sampled_from([0.0, 0.2, -0.1]),
)
def test_penalties_as_defined(
    tokens: list[int], num_prompt: int, repetition: float, presence: float, frequency: float
) -> None:
    num_prompt = min(num_prompt, len(tokens))
    logits = torch.randn(200, generator=torch.Generator().manual_seed(len(tokens)))
    expected = logits.clone()
    for token_id in set(tokens):
        value = expected[token_id]
        expected[token_id] = value / repetition if value > 0 else value * repetition
        if count := tokens[num_prompt:].count(token_id):
            expected[token_id] -= presence + frequency * count
    params = dict(repetition_penalty=repetition, presence_penalty=presence, frequency_penalty=frequency)
    each = SamplerState(SamplingParams(**params), 0, tokens[:num_prompt], num_prompt)
    for token_id in tokens[num_prompt:]:
        each.append(token_id)
    for constraint in each.constraints:
        constraint.apply(logits.numpy())
    assert torch.allclose(logits, expected, atol=1e-5)


# --- drawing --------------------------------------------------------------------------------------------


def sorted_and_cut(logits: torch.Tensor, params: SamplingParams, value: float) -> int:
    """The definition: sort all, cut, draw in vocabulary order."""
    probabilities = torch.softmax(logits / max(params.temperature, 1e-5), dim=-1)
    ordered, order = probabilities.double().sort(descending=True, stable=True)
    if params.top_k > 0:
        ordered[params.top_k :] = 0.0
    before = (ordered.cumsum(0) - ordered) / ordered.sum()
    if params.top_p < 1.0:
        ordered[1:][before[1:] >= params.top_p] = 0.0
    ordered[ordered < params.min_p * ordered[0]] = 0.0
    cumulative = torch.zeros_like(ordered).scatter(0, order, ordered).cumsum(0)
    return int((cumulative > value * cumulative[-1]).nonzero()[0])


@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    size=st.sampled_from([1, 3, 300, 512, 5000, 12_288]),
    top_k=st.sampled_from([0, 1, 5, 400]),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.3]),
    min_p=st.sampled_from([0.0, 0.02, 0.5]),
    temperature=st.sampled_from([0.3, 1.0, 9.0]),
    value=st.floats(0.0, 1.0, exclude_max=True),
)
def test_looking_at_few_tokens_draws_the_same(
    size: int, top_k: int, top_p: float, min_p: float, temperature: float, value: float
) -> None:
    params = SamplingParams(top_k=top_k, top_p=top_p, min_p=min_p, temperature=temperature)
    logits = 3 * torch.randn(3, size, generator=torch.Generator().manual_seed(size))
    for row in logits:
        assert draw(row.numpy().copy(), params, value) == sorted_and_cut(row, params, value)


def test_the_ends_of_the_unit_interval_draw_tokens_that_exist() -> None:
    logits = np.full(1200, -math.inf, dtype=np.float32)
    logits[600] = logits[700] = 0.0
    values = (0.0, 0.4999, 0.5, 1.0 - 2**-53)
    for params in (SamplingParams(), SamplingParams(top_k=3), SamplingParams(top_p=0.9), SamplingParams(min_p=0.1)):
        assert [draw(logits.copy(), params, value) for value in values] == [600, 600, 700, 700]


# --- rows that need little, rows that cannot be sampled -------------------------------------------------


def test_plain_greedy_rows_are_not_looked_at_where_the_best_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise AssertionError("the logits were looked at")

    monkeypatch.setattr(sampler, "_most_likely", fail)
    monkeypatch.setattr(sampler, "_sample_one", fail)
    states = [state(temperature=0.0) for _ in range(3)]
    tokens = sample(torch.tensor([LOGITS] * 3), states, best=[2, 0, 1])
    assert [token.token_id for token in tokens] == [2, 0, 1]
    assert [each.tokens for each in states] == [[0, 2], [0, 0], [0, 1]]
    monkeypatch.undo()
    mixed = [state(temperature=0.0), state(temperature=0.0, logit_bias={3: 100})]
    assert [token.token_id for token in sample(torch.tensor([LOGITS] * 2), mixed, best=[2, 2])] == [2, 3]


@pytest.mark.parametrize("row", [[math.nan] * 5, [*LOGITS[:3], math.nan, LOGITS[4]], [-math.inf] * 5])
@pytest.mark.parametrize(
    "params",
    [{"temperature": 0.0}, {}, {"top_p": 0.5}, {"temperature": 0.0, "logprobs": 1}, {"min_tokens": 1}],
)
def test_logits_that_are_no_numbers_end_their_row_alone(row: list[float], params: dict[str, Any]) -> None:
    rows = torch.tensor([LOGITS, row, LOGITS])
    states = [state(temperature=0.0), state(**params), state(temperature=0.0)]
    tokens = sample(rows, states)
    assert [token.error for token in tokens] == [None, NO_NUMBERS, None]
    assert (tokens[0].token_id, tokens[2].token_id) == (0, 0)


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {}, {"top_p": 0.5}, {"min_p": 0.1}])
def test_constraints_that_leave_nothing_end_their_row_alone(params: dict[str, Any]) -> None:
    forbidding = SamplerState(SamplingParams(**params), 0, [9], 1, bad_words=BadWordTable([(i,) for i in range(5)]))
    tokens = sample(torch.tensor([LOGITS] * 2), [forbidding, state(temperature=0.0)])
    assert [token.error for token in tokens] == [NO_TOKEN, None]


def test_logprobs_of_rows_and_more_than_there_are() -> None:
    entry = token_logprobs(np.array(LOGITS, dtype=np.float32), 3, 9)
    assert entry.logprob == pytest.approx(math.log(0.06), abs=1e-6) and len(entry.top) == 5
    assert [token_id for token_id, _ in entry.top] == [0, 1, 2, 3, 4]


@settings(max_examples=100, derandomize=True, deadline=None)
@given(
    size=st.sampled_from([1, 5, 511, 512, 1300, 4096]),
    count=st.integers(1, 20),
    num_values=st.sampled_from([1, 2, 7, 10_000]),
)
def test_the_largest_of_many(size: int, count: int, num_values: int) -> None:
    """Also among many equal ones, of which the first count."""
    count = min(count, size)
    logits = np.random.default_rng(size * count).integers(0, num_values, size).astype(np.float32)
    expected = np.argsort(-logits, kind="stable")[:count]
    assert sorted(largest(logits, count).tolist()) == sorted(expected.tolist())


def test_each_of_several_completions_has_a_seed() -> None:
    seeds = [derived_seed(seed, index) for seed in range(50) for index in range(20)]
    assert len(set(seeds)) == 1000
    assert [derived_seed(seed, 0) for seed in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("others", [{}, {"top_k": 2}, {"top_p": 0.9}, {"min_p": 0.5}])
def test_the_highest_temperature_draws_what_is_allowed(others: dict[str, Any]) -> None:
    assert set(draws(200, [0.0, -math.inf, 1.0, -math.inf, 0.5], temperature=1e6, **others)) <= {0, 2, 4}


def test_a_row_that_breaks_the_sampler_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> int:
        raise IndexError("beyond the end")

    monkeypatch.setattr(sampler, "draw", broken)
    bad, good = sample(torch.tensor([LOGITS] * 2), [state(seed=1), state(temperature=0.0)])
    assert bad.error == "no token could be sampled: IndexError: beyond the end" and not bad.is_request_fault
    assert good.token_id == 0 and good.error is None


def test_whose_fault_it_is_that_no_token_may_come_next() -> None:
    (forbidden,) = sample(torch.tensor([[-math.inf] * 4 + [1.0]]), [state(min_tokens=1)])
    assert forbidden.error == NO_TOKEN and forbidden.is_request_fault
    (broken,) = sample(torch.tensor([[math.nan] * 5]), [state(min_tokens=1)])
    assert broken.error == NO_NUMBERS and not broken.is_request_fault
