"""What 8-bit weights and KV cost the trained model: its perplexity on held-out dialogues, on each back end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from tokenizers import Tokenizer

from examples.models.train_tiny_tools.dialogues import dialogue
from examples.models.train_tiny_tools.examples import encode
from flowserve import LLM, SamplingParams

MODEL = Path(__file__).parents[3] / "examples" / "models" / "tiny-tools"
DIALOGUES = 24


@dataclass(frozen=True)
class Perplexity:
    """of_all: of every token, most of which training never asked the model to write.  of_own: of those it did."""

    of_all: float
    of_own: float


@cache
def _texts() -> list[tuple[list[int], list[int]]]:
    """Tokens of whole dialogues that no training saw, and which of them are the model's own; always the same."""
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    return [encode(dialogue(f"quality {number}", heldout=True), tokenizer) for number in range(DIALOGUES)]


@cache
def _perplexity(**options: Any) -> Perplexity:
    llm = LLM(MODEL, num_threads=1, enable_prefix_caching=False, **options)
    params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
    losses: list[tuple[float, int]] = []
    for output, (tokens, own) in zip(llm.generate([text for text, _ in _texts()], params), _texts(), strict=True):
        logprobs = [entry.logprob for entry in output.prompt_logprobs or [] if entry is not None]
        assert len(logprobs) == len(tokens) - 1
        losses += zip((-logprob for logprob in logprobs), own[1:], strict=True)
    own_losses = [loss for loss, is_own in losses if is_own]
    assert len(losses) > 5_000 and len(own_losses) > 500
    return Perplexity(math.exp(mean(loss for loss, _ in losses)), math.exp(mean(own_losses)))


@pytest.mark.parametrize("backend", ["torch", "extension"])
@pytest.mark.parametrize(
    "options",
    [{"quantization": "int8", "kv_cache_dtype": "float32"}, {"quantization": "int8", "kv_cache_dtype": "int8"}],
    ids=["weights", "weights and KV"],
)
def test_int8_is_within_a_hundredth_of_exact(backend: str, options: dict[str, Any]) -> None:
    exact = _perplexity(cpu_backend=backend)
    assert exact.of_own < 1.2, "the model is the trained one"
    quantised = _perplexity(cpu_backend=backend, **options)
    assert quantised.of_all == pytest.approx(exact.of_all, rel=0.01)
    assert quantised.of_own == pytest.approx(exact.of_own, rel=0.01)


def test_back_ends_agree_on_exact_weights() -> None:
    torch, extension = _perplexity(cpu_backend="torch"), _perplexity(cpu_backend="extension")
    assert torch.of_all == pytest.approx(extension.of_all, rel=1e-4)
    assert torch.of_own == pytest.approx(extension.of_own, rel=1e-4)


@pytest.mark.parametrize("backend", ["torch", "extension"])
def test_int4_costs_little(backend: str) -> None:
    exact, quantised = _perplexity(cpu_backend=backend), _perplexity(cpu_backend=backend, quantization="int4")
    assert quantised.of_all < 1.08 * exact.of_all and quantised.of_own < 1.08 * exact.of_own
