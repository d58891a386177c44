"""Options of a Model that change what its pods compute, against the same engine in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

import deepserve
from deepserve.errors import ModelLoadError

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


def test_a_quantisation_that_does_not_exist_is_named(folder: Path) -> None:
    llm = deepserve.Model("tiny-int3", source=folder, quantization="int3")
    with pytest.raises(ModelLoadError, match="'int3'.*int8, int4"):
        llm.generate(PROMPT, max_tokens=2)
