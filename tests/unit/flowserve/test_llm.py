"""One LLM and several threads, and its end."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import flowserve
from flowserve import LLM, SamplingParams
from flowserve.errors import EngineClosedError, InvalidRequestError

PARAMS = SamplingParams(max_tokens=30, temperature=0.0, ignore_eos=True)
PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]


def test_threads_ask_one_model_at_once(models: Callable[..., Path]) -> None:
    with LLM(models(), num_threads=1) as llm:
        expected = [[out.outputs[0].token_ids for out in llm.generate([prompt] * 3, PARAMS)] for prompt in PROMPTS]
        streamed = "".join(llm.stream(PROMPTS[0], PARAMS))
        with ThreadPoolExecutor(4) as pool:
            whole = [pool.submit(llm.generate, [prompt] * 3, PARAMS) for prompt in PROMPTS * 3]
            stream = pool.submit(lambda: "".join(llm.stream(PROMPTS[0], PARAMS)))
            answers = [[out.outputs[0].token_ids for out in each.result()] for each in whole]
        assert answers == expected * 3
        assert stream.result() == streamed


def test_what_is_closed_says_so(models: Callable[..., Path]) -> None:
    with LLM(models(), num_threads=1) as llm:
        llm.generate([PROMPTS[0]], PARAMS)
    with pytest.raises(EngineClosedError):
        llm.generate([PROMPTS[0]], PARAMS)
    llm.close()


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ("add", "tools must be a list of dicts, got a str"),
        ({"type": "function"}, "tools must be a list of dicts, got a dict"),
        (["add"], r"tools\[0\] must be like .*, got 'add'"),
        ([{"type": "function", "function": {"name": "add"}}, {"name": "sub"}], r"tools\[1\] must be like .*'sub'"),
    ],
)
def test_tools_that_are_none(models: Callable[..., Path], tools: Any, words: str) -> None:
    """The template would write them into the prompt without a word."""
    with LLM(models("qwen3"), num_threads=1) as llm, pytest.raises(InvalidRequestError, match=words):
        llm.chat([{"role": "user", "content": "Hello"}], tools=tools)


def test_version() -> None:
    assert flowserve.__version__[0].isdigit()
