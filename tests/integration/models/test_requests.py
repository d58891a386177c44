"""Requests to a model on real pods: generate, chat, stream, output types, many at once."""

from __future__ import annotations

import asyncio
import enum
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import pytest

import deepserve
from deepserve.errors import OutputTruncated
from deepserve.protocol.model_io import ENGINE_SEATS


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


@dataclass
class Verdict:
    """Only closed choices: a random model would never end a text or a list."""

    mood: Mood
    sure: bool
    kind: Literal["a", "b"] | None = None


def test_generate_is_greedy_at_temperature_zero_and_seeded_above(llm: deepserve.Model) -> None:
    assert llm.generate("Once upon", max_tokens=8, temperature=0) == llm.generate(
        "Once upon", max_tokens=8, temperature=0
    )
    sampled = [llm.generate("Once upon", max_tokens=8, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


def test_chat_and_its_stream_say_the_same(llm: deepserve.Model) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    whole = llm.chat(messages, max_tokens=12, temperature=0)
    assert (whole.finish_reason, whole.usage.completion_tokens) == ("length", 12)
    assert "".join(llm.stream(messages, max_tokens=12, temperature=0)) == whole.text == whole.output


def test_max_tokens_defaults_to_what_is_left_of_the_context(llm: deepserve.Model) -> None:
    usage = llm.chat("hi " * 120, temperature=0).usage
    assert usage.total_tokens == 512  # a random model ends nowhere else


@pytest.mark.parametrize("output_type", [Verdict, Literal["yes", "no"], Mood, bool, Verdict | bool])
def test_output_types(llm: deepserve.Model, output_type: type) -> None:
    for seed in range(3):
        output = llm.chat("hi", output_type=output_type, max_tokens=200, temperature=1.0, seed=seed).output
        if output_type in (Verdict, Mood, bool):
            assert isinstance(output, output_type)


def test_cut_off_output(llm: deepserve.Model) -> None:
    with pytest.raises(OutputTruncated) as caught:
        llm.chat("hi", output_type=Verdict, max_tokens=2)
    assert caught.value.text.startswith("{")


def test_many_at_once(llm: deepserve.Model) -> None:
    alone = [llm.generate(f"story {n}", max_tokens=6, temperature=0) for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        together = pool.map(lambda n: llm.generate(f"story {n}", max_tokens=6, temperature=0), range(6))
        assert list(together) == alone

    async def gathered() -> list[str]:
        return await asyncio.gather(*(llm.generate.aio(f"story {n}", max_tokens=6, temperature=0) for n in range(6)))

    assert asyncio.run(gathered()) == alone


def test_a_request_over_its_time_ends_in_the_engine_too(llm: deepserve.Model) -> None:
    hurried = llm.with_options(timeout=0.01)  # for 450 tokens
    for _ in range(ENGINE_SEATS + 8):  # more than an engine has slots, were they not given back
        with pytest.raises(deepserve.FunctionTimeout) as caught:
            hurried.generate("hi", max_tokens=450, ignore_eos=True)
        assert caught.value.clock == "run"
    with pytest.raises(deepserve.FunctionTimeout):
        for _piece in hurried.stream("hi", max_tokens=450, ignore_eos=True):
            pass
    assert llm.with_options(timeout=600).chat("hi", max_tokens=4, temperature=0).usage.completion_tokens == 4


def test_leaving_a_stream_early_frees_the_model(llm: deepserve.Model) -> None:
    for _ in range(ENGINE_SEATS + 8):  # more than an engine has slots, were they not given back
        for _piece in llm.stream("hi", temperature=1.0, seed=1):
            break

    async def leave() -> None:
        async for _piece in llm.stream.aio("hi", temperature=1.0, seed=1):
            break

    asyncio.run(leave())
    assert llm.generate("hi", max_tokens=2, temperature=0)
