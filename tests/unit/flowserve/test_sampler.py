"""What is drawn from given logits."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch

from flowserve import SamplingParams
from flowserve.worker.sampler import SamplerState, sample, uniform

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
