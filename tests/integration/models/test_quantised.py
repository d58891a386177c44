"""Options of a Model that change what its pods compute, against the same engine in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import deepserve

PROMPT = "The quick brown fox jumps over"
LENGTH = 60  # long enough for rounded weights to choose other tokens than exact ones


def _here(folder: Path, quantization: str | None) -> str:
    from flowserve import LLM, SamplingParams

    llm = LLM(folder, quantization=quantization, num_threads=1)
    (output,) = llm.generate([PROMPT], SamplingParams(temperature=0.0, max_tokens=LENGTH))
    return output.outputs[0].text


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_pods_compute_with_quantised_weights(folder: Path, quantization: str) -> None:
    llm = deepserve.Model(f"tiny-{quantization}", source=folder, quantization=quantization)
    text = llm.generate(PROMPT, temperature=0.0, max_tokens=LENGTH)
    assert text == _here(folder, quantization)
    assert text != _here(folder, None)


def test_pods_guess_tokens_and_round_their_cache(folder: Path) -> None:
    plain = deepserve.Model("tiny-plain", source=folder)
    guessing = deepserve.Model("tiny-guessing", source=folder, speculative_tokens=4)
    rounded = deepserve.Model("tiny-rounded", source=folder, quantization="int8", kv_cache_dtype="int8")
    options: dict[str, Any] = {"temperature": 0.0, "max_tokens": LENGTH}
    assert guessing.generate(PROMPT, **options) == plain.generate(PROMPT, **options)
    assert rounded.generate(PROMPT, **options)


def test_every_option_of_sampling_reaches_the_engine(folder: Path) -> None:
    from flowserve import LLM, SamplingParams

    options: dict[str, Any] = {
        "max_tokens": 20, "temperature": 0.8, "top_p": 0.9, "top_k": 50, "min_p": 0.01, "seed": 3,
        "presence_penalty": 1.5, "frequency_penalty": 0.5, "repetition_penalty": 1.6, "logit_bias": {278: -100.0},
        "min_tokens": 4, "ignore_eos": True, "bad_words": ["fox"], "stop": ["zzz"], "stop_token_ids": [399],
    }  # fmt: skip
    llm = LLM(folder, num_threads=1)
    model = deepserve.Model("tiny-plain", source=folder)
    (expected,) = llm.generate([PROMPT], SamplingParams(**options))
    assert model.generate(PROMPT, **options) == expected.outputs[0].text
    assert model.generate(PROMPT, **{**options, "logit_bias": None}) != expected.outputs[0].text
