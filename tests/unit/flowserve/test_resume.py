"""A sequence that is resumed from its tokens goes on as if it had never been cut: at every token, whatever it asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowserve import SamplingParams, StructuredOutputsParams
from flowserve.errors import InvalidPromptError, InvalidRequestError, SequenceExistsError, UnknownSequenceError
from tests.unit.flowserve.running import run_to_end

PROMPT = [301, 48, 182, 7]
Build = Callable[..., Any]
SCHEMA = {"type": "object", "properties": {"a": {"enum": ["yes", "no"]}, "b": {"type": "boolean"}}, "required": ["a"]}


def steps_of(engine: Any, params: SamplingParams, output_ids: list[int] | None = None) -> list[Any]:
    engine.add("s", PROMPT, params, output_ids=output_ids or [])
    outputs = []
    while engine.has_work:
        outputs += engine.step()
        engine.check_invariants()
    return outputs


WISHES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "seeded": {"seed": 5},
    "seeded and narrow": {"seed": 6, "top_p": 0.8, "top_k": 40, "min_p": 0.01, "temperature": 0.7},
    "penalties": {"temperature": 0.0, "repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.3},
    "seeded penalties": {"seed": 1, "frequency_penalty": 1.0},
    "least tokens": {"seed": 2, "min_tokens": 9, "ignore_eos": False},
    "forbidden words": {"temperature": 0.0, "bad_words": ["a", "the"], "logit_bias": {40: 3.0}},
    "log probabilities": {"seed": 3, "logprobs": 2},
    "grammar": {"seed": 4, "structured_outputs": StructuredOutputsParams(json=SCHEMA), "ignore_eos": False},
    "regex": {"temperature": 0.0, "structured_outputs": StructuredOutputsParams(regex="[a-f]{6,12}")},
}


@pytest.mark.parametrize("wish", list(WISHES))
@pytest.mark.parametrize("options", [{}, {"overlap": False, "speculative_tokens": 3}], ids=["overlapped", "drafted"])
def test_cut_at_every_token(engine: Build, wish: str, options: dict[str, Any]) -> None:
    params = SamplingParams(**{"max_tokens": 15, "ignore_eos": True, **WISHES[wish]})
    whole = steps_of(engine(**options), params)
    tokens = [token for output in whole for token in output.token_ids]
    text = "".join(output.text for output in whole)
    logprobs = [each for output in whole for each in output.logprobs or ()]
    reason = whole[-1].finish_reason
    other = engine(**options)
    for cut in range(1, len(tokens) + 1):
        first, *rest = steps_of(other, params, tokens[:cut])
        assert (first.token_ids, first.num_prompt_tokens, first.num_output_tokens) == ((), len(PROMPT), cut)
        assert tokens[:cut] + [token for output in rest for token in output.token_ids] == tokens
        assert first.text + "".join(output.text for output in rest) == text
        last = rest[-1] if rest else first
        assert last.finished and last.finish_reason == reason and last.num_output_tokens == len(tokens)
        if logprobs:
            again = [each for output in rest for each in output.logprobs or ()]
            assert [each.token_id for each in again] == tokens[cut:]
            wanted = [each.logprob for each in logprobs[cut:]]
            assert [each.logprob for each in again] == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def test_its_first_output_is_the_text_that_its_reader_has(engine: Build) -> None:
    """Characters and stop strings half read are held back as they were: whoever has the first text needs the rest."""
    plain = SamplingParams(temperature=0.0, max_tokens=25, ignore_eos=True)
    text = "".join(output.text for output in steps_of(engine(), plain))
    stops = [text[place : place + 4] for place in range(6, len(text) - 8, 9)]
    each, other = engine(), engine()
    for stop in [None, *stops, text[-2:] + "x"]:
        params = SamplingParams(temperature=0.0, max_tokens=25, ignore_eos=True, stop=[stop] if stop else [])
        tokens: list[int] = []
        shown = ""
        for output in steps_of(each, params):
            tokens += output.token_ids
            shown += output.text
            assert steps_of(other, params, tokens)[0].text == shown, (stop, len(tokens))


def test_sequences_go_on_beside_others_and_after_preemption(engine: Build) -> None:
    params = SamplingParams(seed=11, max_tokens=30, ignore_eos=True)
    alone = engine()
    alone.add("a", PROMPT, params)
    expected = run_to_end(alone)["a"]["tokens"]
    small = engine(num_kv_blocks=30, block_size=4, max_model_len=100)
    for i in range(4):
        small.add(f"other{i}", [9 + i] * (5 + 7 * i), SamplingParams(seed=i, max_tokens=25, ignore_eos=True))
    small.add("a", PROMPT, params, output_ids=expected[:13])
    given = []
    while small.has_work:
        given += [token for output in small.step() if output.sequence_id == "a" for token in output.token_ids]
        small.check_invariants()
    assert given == expected[13:] and small.stats().num_preemptions > 0


def test_what_no_sequence_can_have_put_out_is_refused(engine: Build) -> None:
    each = engine()
    greedy = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
    tokens = [token for output in steps_of(each, greedy) for token in output.token_ids]

    def refuse(text: str, params: SamplingParams, output_ids: list[int]) -> None:
        with pytest.raises(InvalidRequestError, match=text):
            each.add("s", PROMPT, params, output_ids=output_ids)
        assert not each.has_work
        each.check_invariants()

    refuse("may have 8", greedy, tokens + tokens)
    refuse("go on behind token 1", SamplingParams(stop_token_ids=[tokens[1]]), tokens[:4])
    refuse("break the grammar at token 0", SamplingParams(structured_outputs=StructuredOutputsParams(regex="9")), [40])
    with pytest.raises(InvalidPromptError, match="token id -1"):
        each.add("s", PROMPT, greedy, output_ids=[-1])
    with pytest.raises(InvalidRequestError, match="of 3 completions, and params.n is 2"):
        each.add("s", PROMPT, SamplingParams(seed=1, n=2), other_output_ids=[[], [4]])


def test_one_that_is_over_can_be_aborted_before_it_says_so(engine: Build) -> None:
    each = engine()
    params = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
    tokens = [token for output in steps_of(each, params) for token in output.token_ids]
    each.add("s", PROMPT, params, output_ids=tokens)
    assert each.has_work
    with pytest.raises(SequenceExistsError):
        each.add("s", PROMPT, params)
    each.abort("s")
    with pytest.raises(UnknownSequenceError):
        each.abort("s")
    assert not each.has_work and each.step() == []
    each.add("s", PROMPT, params, output_ids=tokens[:2])
    each.abort("s")
    assert not [output for output in each.step() if output.sequence_id == "s"]


@pytest.mark.parametrize("cuts", [(1, 1, 1), (4, 9, 2), (12, 3, 5), (0, 6, 12), (12, 12, 3), (12, 12, 12), (7, 0, 0)])
def test_several_completions_of_a_prompt_go_on(engine: Build, cuts: tuple[int, ...]) -> None:
    """Each behind its own tokens; one that was over stays so, and those that follow share the prompt all the same."""
    params = SamplingParams(seed=3, n=3, max_tokens=12, ignore_eos=True, logprobs=1)
    whole = steps_of(engine(), params)
    texts = ["".join(output.text for output in whole if output.index == i) for i in range(3)]
    tokens = [[token for output in whole if output.index == i for token in output.token_ids] for i in range(3)]
    other = engine()
    other.add(
        "s",
        PROMPT,
        params,
        output_ids=tokens[0][: cuts[0]],
        other_output_ids=[tokens[1][: cuts[1]], tokens[2][: cuts[2]]],
    )
    again: list[Any] = []
    while other.has_work:
        again += other.step()
        other.check_invariants()
    for index, cut in enumerate(cuts):
        own = [output for output in again if output.index == index]
        assert (own[0].token_ids == ()) == (cut > 0)
        assert tokens[index][:cut] + [token for output in own for token in output.token_ids] == tokens[index]
        assert "".join(output.text for output in own) == texts[index]
        assert [output.finished for output in own] == [False] * (len(own) - 1) + [True]
    assert len(again) == sum(12 - cut + (cut > 0) for cut in cuts)


def test_several_completions_are_aborted_together(engine: Build) -> None:
    each = engine()
    params = SamplingParams(seed=3, n=3, max_tokens=12, ignore_eos=True)
    for outputs in ([[5], [6], [7]], [[], [6], []], [[5] * 12, [6], []]):
        each.add("s", PROMPT, params, output_ids=outputs[0], other_output_ids=outputs[1:])
        each.abort("s")
        each.check_invariants()
        assert not [output for output in each.step() if output.sequence_id == "s"] and not each.has_work
