"""What may be asked of sampling: the SDK says so before anything starts, by rules that are the engine's."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

from deepserve._model_sampling import params_of  # noqa: E402
from deepserve.errors import InvalidOption  # noqa: E402
from deepserve.protocol.model_io import GenerationParams  # noqa: E402
from deepserve_runtime.executors.task_reader import sampling_params  # noqa: E402
from flowserve.errors import InvalidSamplingParamsError  # noqa: E402
from flowserve.sampling_params import SamplingParams  # noqa: E402

BOUNDS: list[tuple[dict[str, Any], dict[str, Any]]] = [  # what is allowed, and what lies just beyond
    ({"n": 128}, {"n": 129}), ({"n": 1}, {"n": 0}), ({"logprobs": 100}, {"logprobs": 101}),
    ({"logprobs": 0}, {"logprobs": -1}), ({"max_tokens": 1}, {"max_tokens": 0}), ({"top_k": -1}, {"top_k": -2}),
    ({"temperature": 1e6}, {"temperature": 1.1e6}), ({"temperature": 0.0}, {"temperature": -0.1}),
    ({"top_p": 1.0}, {"top_p": 1.1}), ({"top_p": 0.1}, {"top_p": 0.0}), ({"min_p": 1.0}, {"min_p": 1.1}),
    ({"min_p": 0.0}, {"min_p": -0.1}), ({"repetition_penalty": 0.01}, {"repetition_penalty": 0.009}),
    ({"repetition_penalty": 100.0}, {"repetition_penalty": 101.0}),
    ({"presence_penalty": 2.0}, {"presence_penalty": 2.1}),
    ({"presence_penalty": -2.0}, {"presence_penalty": -2.1}), ({"frequency_penalty": 2.0}, {"frequency_penalty": 2.1}),
    ({"frequency_penalty": -2.0}, {"frequency_penalty": -2.1}),
    ({"logit_bias": {1: 100.0}}, {"logit_bias": {1: 101.0}}),
    ({"logit_bias": {0: 1.0}}, {"logit_bias": {-1: 1.0}}), ({"stop_token_ids": [0]}, {"stop_token_ids": [-1]}),
    ({"stop": [" "]}, {"stop": [""]}), ({"bad_words": [" a"]}, {"bad_words": [" "]}),
    ({"min_tokens": 5, "max_tokens": 5}, {"min_tokens": 6, "max_tokens": 5}), ({"min_tokens": 0}, {"min_tokens": -1}),
    ({"n": 2, "temperature": 0.1}, {"n": 2, "temperature": 0.0}),
]  # fmt: skip


@pytest.mark.parametrize(("allowed", "beyond"), BOUNDS)
def test_the_sdk_and_the_engine_draw_the_same_bounds(allowed: dict[str, Any], beyond: dict[str, Any]) -> None:
    assert sampling_params(params_of("llm.chat", allowed), {}) == SamplingParams(**allowed)
    with pytest.raises(InvalidOption):
        params_of("llm.chat", beyond)
    with pytest.raises(InvalidSamplingParamsError):
        SamplingParams(**beyond)


def test_a_temperature_that_nobody_asked_for_is_told_as_the_model_s_own() -> None:
    own = r"n 2 cannot go with temperature 0, which is this model's default \(generation_config.json\)"
    with pytest.raises(InvalidSamplingParamsError, match=own):
        sampling_params(GenerationParams(n=2), {"temperature": 0.0})
    with pytest.raises(InvalidSamplingParamsError, match="n 2 cannot go with temperature 0: "):
        sampling_params(GenerationParams(n=2, temperature=0.0), {"temperature": 1.0})
