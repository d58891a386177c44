"""Engine: seeds, aborts, deadlines, completions of a prompt, and one bad sequence among good ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowserve import SamplingParams, StructuredOutputsParams
from flowserve.errors import (
    InvalidGrammarError,
    InvalidPromptError,
    InvalidRequestError,
    PromptTooLongError,
    SequenceExistsError,
    UnknownSequenceError,
)
from tests.unit.flowserve.running import run_to_end

PROMPT = [301, 48, 182, 7]
Build = Callable[..., Any]


def greedy(**params: Any) -> SamplingParams:
    return SamplingParams(temperature=0.0, **{"ignore_eos": True, **params})


def test_same_seed_same_tokens_in_any_batch(engine: Build) -> None:
    """Alone, among others, in small chunks and after preemption."""
    params = SamplingParams(seed=11, max_tokens=30, ignore_eos=True)
    alone = engine()
    alone.add("a", PROMPT, params)
    expected = run_to_end(alone)["a"]["tokens"]
    for options in ({}, {"max_num_batched_tokens": 3}, {"num_kv_blocks": 30, "block_size": 4, "max_model_len": 100}):
        each = engine(**options)
        for i in range(4):
            each.add(f"other{i}", [9 + i] * (5 + 7 * i), SamplingParams(seed=i, max_tokens=25, ignore_eos=True))
        each.add("a", PROMPT, params)
        assert run_to_end(each)["a"]["tokens"] == expected
    other = engine()
    other.add("a", PROMPT, SamplingParams(seed=12, max_tokens=30, ignore_eos=True))
    assert run_to_end(other)["a"]["tokens"] != expected


def test_without_a_seed_outputs_differ_unless_the_engine_has_one(engine: Build) -> None:
    def outputs(**options: Any) -> list[list[int]]:
        each = engine(**options)
        for i in range(3):
            each.add(str(i), PROMPT, SamplingParams(max_tokens=12, ignore_eos=True))
        return [result["tokens"] for result in run_to_end(each).values()]

    assert len({tuple(tokens) for tokens in outputs() + outputs()}) == 6
    assert outputs(seed=5) == outputs(seed=5)


def test_abort(engine: Build) -> None:
    each = engine(max_num_sequences=1)
    for sequence_id in ("running", "waiting", "kept"):
        each.add(sequence_id, PROMPT, greedy(max_tokens=5))
    each.step()
    each.abort("running")
    each.abort("waiting")
    with pytest.raises(UnknownSequenceError, match="waiting"):
        each.abort("waiting")
    assert run_to_end(each).keys() == {"kept"}
    assert each.stats().free_blocks == each.stats().total_blocks
    assert each.step() == []


def test_bad_sequences_leave_the_others_alone(engine: Build) -> None:
    undisturbed = engine(max_model_len=50)
    undisturbed.add("good", PROMPT, greedy(max_tokens=20))
    expected = run_to_end_from_now(undisturbed, "good")
    each = engine(max_model_len=50)
    each.add("good", PROMPT, greedy(max_tokens=20))
    (first,) = each.step()
    for prompt, params, error, words in [
        (list(range(3, 53)), None, PromptTooLongError, "prompt of 50 tokens.* context of 50"),
        (list(range(3, 90)), None, PromptTooLongError, "prompt of 87 tokens.* context of 50"),
        ([], None, InvalidPromptError, "empty"),
        ([3, 400], None, InvalidPromptError, "400.*vocabulary of 400"),
        ([-1], None, InvalidPromptError, "-1"),
        (["3"], None, InvalidPromptError, "'3'"),
        (PROMPT, {"json": {"type": "nonsense"}}, InvalidGrammarError, "nonsense"),
        (PROMPT, {"regex": "(["}, InvalidGrammarError, "regex"),
    ]:
        structured = StructuredOutputsParams(**params) if params else None
        with pytest.raises(error, match=words):
            each.add("bad", prompt, greedy(structured_outputs=structured))
        each.check_invariants()
    with pytest.raises(SequenceExistsError, match="the id 'good' is in use.*already"):
        each.add("good", PROMPT, greedy())
    assert [*first.token_ids, *run_to_end_from_now(each, "good")] == expected and len(expected) == 20


@pytest.mark.parametrize("part", ["text", "sampler_state"])
def test_what_cannot_be_made_is_not_queued(engine: Build, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """Of any of the completions: those after the first start in a step, where nobody could be told."""
    from flowserve.intake import Prepared

    each = engine()
    make, num_made = getattr(Prepared, part), 0

    def failing(self: Prepared, *options: Any) -> Any:
        nonlocal num_made
        num_made += 1
        if num_made == 2:
            raise MemoryError
        return make(self, *options)

    monkeypatch.setattr(Prepared, part, failing)
    with pytest.raises(MemoryError):
        each.add("a", PROMPT, SamplingParams(max_tokens=3, n=2))
    each.check_invariants()
    assert not each.has_work and not each._worker._held
    each.add("a", PROMPT, SamplingParams(max_tokens=3, n=2))
    while each.has_work:
        each.step()
    assert num_made == 4


def run_to_end_from_now(engine: Any, sequence_id: str) -> list[int]:
    tokens = []
    while engine.has_work:
        for output in engine.step():
            assert output.sequence_id == sequence_id
            tokens += output.token_ids
    return tokens


def test_a_grammar_that_fails_midway_ends_its_sequence_only(engine: Build) -> None:
    each = engine()
    each.add("bad", PROMPT, greedy(structured_outputs=StructuredOutputsParams(regex="[a-z]+")))
    each.add("good", PROMPT, greedy(max_tokens=10))
    grammar = each._worker._held[0].state.grammar
    each.step()
    grammar.accept(300)  # what is no continuation puts the matcher into its error state
    outputs = {output.sequence_id: output for output in each.step()}
    assert (outputs["bad"].finish_reason, outputs["bad"].finished) == ("abort", True)
    assert outputs["bad"].error and outputs["bad"].is_request_fault
    assert len(run_to_end_from_now(each, "good")) == 8


def test_an_urgent_sequence_goes_first_and_the_displaced_keeps_its_tokens(engine: Build) -> None:
    alone = engine()
    alone.add("low", PROMPT, greedy(max_tokens=12))
    expected = run_to_end(alone)["low"]["tokens"]
    each = engine(max_num_sequences=1)
    each.add("low", PROMPT, greedy(max_tokens=12), priority=5)
    tokens = [token for _ in range(4) for output in each.step() for token in output.token_ids]
    each.add("later", PROMPT, greedy(max_tokens=3), priority=5)
    each.add("urgent", PROMPT[::-1], greedy(max_tokens=3), priority=-5)
    order = []
    while each.has_work:
        for output in each.step():
            tokens += output.token_ids if output.sequence_id == "low" else ()
            order += [output.sequence_id] if output.finished else []
    assert order == ["urgent", "low", "later"] and tokens == expected


def test_a_deadline_ends_its_sequence_with_what_it_has(models: Build) -> None:
    from flowserve import Engine, EngineConfig
    from flowserve.models.loader import load_model
    from flowserve.tokenizer import Tokenizer

    now = [100.0]
    config = EngineConfig(num_threads=1, max_num_sequences=2)
    each = Engine(load_model(models(), config), Tokenizer.from_folder(models()), config, clock=lambda: now[0])
    each.add("running", PROMPT, greedy(max_tokens=50), deadline_s=103.0)
    each.add("kept", PROMPT, greedy(max_tokens=20))
    each.add("waiting", PROMPT, greedy(max_tokens=50), deadline_s=102.0)
    ends = {}
    num_tokens = {"running": 0, "kept": 0, "waiting": 0}
    while each.has_work:
        for output in each.step():
            num_tokens[output.sequence_id] += len(output.token_ids)
            assert output.num_output_tokens == num_tokens[output.sequence_id]
            if output.finished:
                ends[output.sequence_id] = (output.finish_reason, now[0], output.error)
        each.check_invariants()
        now[0] += 0.25
    assert ends == {
        "waiting": ("deadline", 102.0, None), "running": ("deadline", 103.0, None), "kept": ("length", 104.75, None),
    }  # fmt: skip
    assert num_tokens == {"waiting": 0, "running": 12, "kept": 20}
    assert each.stats().free_blocks == each.stats().total_blocks


@pytest.mark.parametrize(
    ("options", "words"),
    [({"priority": 1.5}, "1.5"), ({"priority": None}, "None"), ({"deadline_s": float("nan")}, "nan"),
     ({"deadline_s": "soon"}, "soon")],
)  # fmt: skip
def test_an_impossible_priority_or_deadline_is_refused(engine: Build, options: Any, words: str) -> None:
    each = engine()
    with pytest.raises(InvalidRequestError, match=words):
        each.add("a", PROMPT, greedy(), **options)
    assert not each.has_work


def test_stats(engine: Build) -> None:
    each = engine(max_num_sequences=2, block_size=8, num_kv_blocks=20, max_model_len=100)
    for index in range(3):
        each.add(str(index), [index + 3] * 17, greedy(max_tokens=3))
    each.step()
    stats = each.stats()
    assert (stats.running, stats.waiting, stats.total_blocks, stats.free_blocks) == (2, 1, 20, 14)
    while each.has_work:
        each.step()
    stats = each.stats()
    assert (stats.running, stats.waiting, stats.free_blocks, stats.num_preemptions) == (0, 0, 20, 0)
    assert stats.cached_blocks == 6 and stats.num_steps == 6


def test_completions_share_the_prompt(engine: Build) -> None:
    each = engine(block_size=4)
    each.add("a", [7] * 41, SamplingParams(n=4, max_tokens=3, ignore_eos=True))
    outputs = []
    while each.has_work:
        outputs += each.step()
        each.check_invariants()
    assert {(output.sequence_id, output.index) for output in outputs} == {("a", index) for index in range(4)}
    assert [output.index for output in outputs if output.finished] == [0, 1, 2, 3]
    assert each.stats().prefix_hit_tokens == 3 * 40


def test_abort_ends_all_completions(engine: Build) -> None:
    each = engine()
    for num_steps in (0, 1, 2):
        each.add("a", PROMPT, SamplingParams(n=3, max_tokens=8, ignore_eos=True))
        with pytest.raises(UnknownSequenceError, match="already"):
            each.add("a", PROMPT)
        for _ in range(num_steps):
            each.step()
        each.abort("a")
        each.check_invariants()
        assert not each.has_work and each.stats().free_blocks == each.stats().total_blocks


def test_prompt_logprobs_in_chunks_of_any_size(engine: Build, llm: Build) -> None:
    prompt = PROMPT * 30
    (whole,) = llm().generate([prompt], greedy(max_tokens=20, logprobs=3))
    text = prompt + whole.outputs[0].token_ids
    params = greedy(max_tokens=2, prompt_logprobs=3)
    for options in ({}, {"max_num_batched_tokens": 7}, {"num_kv_blocks": 40, "block_size": 4, "max_model_len": 150}):
        each = llm(**options)
        each.generate([prompt], greedy(max_tokens=1))  # its KV is preserved, and yet every logit is computed
        (output,) = each.generate([text], params)
        found = output.prompt_logprobs
        assert found[0] is None and [entry.token_id for entry in found[1:]] == text[1:]
        for expected, entry in zip(whole.outputs[0].logprobs, found[len(prompt) :], strict=True):
            assert entry.logprob == pytest.approx(expected.logprob, abs=1e-4)
            assert [value for _, value in entry.top] == pytest.approx([v for _, v in expected.top], abs=1e-4)
    plain, first = each.generate([text, PROMPT], [greedy(max_tokens=2), greedy(max_tokens=1, prompt_logprobs=0)])
    assert plain.prompt_logprobs is None and len(first.prompt_logprobs) == len(PROMPT)
    assert first.prompt_logprobs[1].top == ()
