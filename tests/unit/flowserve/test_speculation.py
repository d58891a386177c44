"""Speculation changes how many steps a text takes, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowserve import SamplingParams, StructuredOutputsParams
from flowserve.errors import InvalidConfigError
from tests.unit.flowserve.running import run_to_end

Build = Callable[..., Any]
TRAINED = Path(__file__).parents[3] / "examples" / "models" / "tiny-tools"
LOOP = [9, 40, 77, 120] * 8  # what a random model reads here it says again, as greedy random models do
TIGHT = {"num_kv_blocks": 30, "block_size": 4, "max_model_len": 100}
RECORD = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "sizes": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["name", "sizes"],
    "additionalProperties": False,
}


def greedy(**params: Any) -> SamplingParams:
    return SamplingParams(temperature=0.0, **{"ignore_eos": True, "max_tokens": 40, **params})


PARAMS: dict[str, SamplingParams] = {
    "greedy": greedy(),
    "ends": greedy(ignore_eos=False),
    "one": greedy(max_tokens=1),
    "two": greedy(max_tokens=2),
    "seeded": SamplingParams(seed=3, max_tokens=40, ignore_eos=True),
    "cold": SamplingParams(seed=3, temperature=0.1, top_p=0.9, max_tokens=40, ignore_eos=True),
    "penalties": greedy(repetition_penalty=1.05, presence_penalty=0.1, frequency_penalty=0.01),
    "bias": greedy(logit_bias={77: 1.0}, bad_words=["a"]),
    "late end": greedy(ignore_eos=False, min_tokens=12),
    "stop string": greedy(stop=["e", "a "]),
    "stop token": greedy(stop_token_ids=list(range(150, 170))),
    "logprobs": greedy(logprobs=2, prompt_logprobs=1),
    "choice": greedy(structured_outputs=StructuredOutputsParams(choice=["yes", "no, never"])),
    "json": SamplingParams(seed=4, max_tokens=60, structured_outputs=StructuredOutputsParams(json=RECORD)),
    "several": SamplingParams(n=3, seed=1, temperature=0.1, max_tokens=30, ignore_eos=True),
}


def collect(engine: Any) -> dict[Any, list[Any]]:
    """Per completion: tokens, text, reason, log-probabilities."""
    results: dict[Any, list[Any]] = {}
    while engine.has_work:
        for output in engine.step():
            found = results.setdefault((output.sequence_id, output.index), [[], "", None, [], None])
            assert found[2] is None, "output after the end"
            found[0] += output.token_ids
            found[1] += output.text
            found[2] = output.finish_reason
            found[3] += [(entry.token_id, pytest.approx(entry.logprob, abs=1e-4)) for entry in output.logprobs or ()]
            found[4] = found[4] or (output.prompt_logprobs and len(output.prompt_logprobs))
            assert output.num_output_tokens == len(found[0])
        engine.check_invariants()
    return results


def run(build: Build, prompts: dict[str, list[int]], **options: Any) -> tuple[dict[Any, list[Any]], Any]:
    each = build(seed=7, **options)
    for name, prompt in prompts.items():
        each.add(name, prompt, PARAMS[name])
    results = collect(each)
    assert each.stats().free_blocks == each.stats().total_blocks
    return results, each.stats()


@pytest.mark.parametrize("num_drafts", [1, 6])
@pytest.mark.parametrize(
    "options", [{}, {"max_num_batched_tokens": 5}, {"max_num_sequences": 2}, TIGHT, {"enable_prefix_caching": False}]
)
def test_the_outputs_are_the_same(engine: Build, options: dict[str, Any], num_drafts: int) -> None:
    """Under every kind of sampling and every end, in mixed batches, small chunks and with preemptions."""
    prompts = {name: LOOP[index:] + [5 + index] for index, name in enumerate(PARAMS)}
    expected, plain = run(engine, prompts, **options)
    found, stats = run(engine, prompts, speculative_tokens=num_drafts, speculative_ngram=(1, 3), **options)
    assert found == expected
    assert {result[2] for result in found.values()} == {"stop", "length"}
    assert 0 < stats.num_accepted_tokens <= stats.num_draft_tokens
    assert plain.num_draft_tokens == plain.num_accepted_tokens == 0
    if options is TIGHT:
        assert stats.num_preemptions > 0


@pytest.mark.parametrize("name", PARAMS)
def test_each_alone(engine: Build, name: str) -> None:
    prompts = {name: LOOP}
    expected, _ = run(engine, prompts)
    found, _ = run(engine, prompts, speculative_tokens=5, speculative_ngram=(1, 2))
    assert found == expected


def test_text_that_repeats_itself_takes_fewer_steps(engine: Build) -> None:
    """Greedy text of the trained model runs into loops; each step then gives several tokens."""
    texts, steps = [], []
    for num_drafts in (0, 6):
        each = engine(model=TRAINED, speculative_tokens=num_drafts)
        prompt = each.tokenizer.encode("one two three four. one two three four. one two")
        each.add("a", prompt, greedy(max_tokens=120))
        texts.append(run_to_end(each)["a"]["text"])
        steps.append(each.stats().num_steps)
    assert texts[0] == texts[1] and steps[1] < 0.6 * steps[0] == 72


def test_ends_in_the_middle_of_accepted_tokens(engine: Build) -> None:
    """Stop strings, stop tokens and max_tokens at every place of a text that is guessed well."""
    plain = engine(model=TRAINED)
    prompt = plain.tokenizer.encode("one two three four. one two three four. one two")
    plain.add("a", prompt, greedy(max_tokens=60))
    whole = run_to_end(plain)["a"]
    each = engine(model=TRAINED, speculative_tokens=6)
    for count in range(1, 40, 8):
        token_id, text = whole["tokens"][count], plain.tokenizer.decode(whole["tokens"][:count])
        for params in (
            greedy(max_tokens=count),
            greedy(max_tokens=60, stop_token_ids=[token_id]),
            greedy(max_tokens=60, stop=[text[-4:]]),
            greedy(max_tokens=60, stop=[text[-4:]], include_stop_str_in_output=True, min_tokens=count // 2),
        ):
            results = []
            for one in (plain, each):
                one.add("a", prompt, params)
                results.append(run_to_end(one)["a"])
            assert results[0] == results[1]
    assert each.stats().num_accepted_tokens > 30


def test_what_a_grammar_forces_needs_no_steps_of_its_own(engine: Build) -> None:
    texts, steps = [], []
    choice = StructuredOutputsParams(choice=["the first of two long answers", "another long answer, the second"])
    for num_drafts in (0, 8):
        each = engine(model=TRAINED, speculative_tokens=num_drafts)
        each.add("a", each.tokenizer.encode("hello"), greedy(structured_outputs=choice))
        texts.append(run_to_end(each)["a"]["text"])
        steps.append(each.stats().num_steps)
    assert texts[0] == texts[1] in choice.choice and steps[1] < steps[0]


@pytest.mark.parametrize(
    "options, words",
    [
        ({"speculative_tokens": -1}, "speculative_tokens must be 0"),
        ({"speculative_tokens": 33}, "speculative_tokens must be 0"),
        ({"speculative_ngram": (3, 2)}, "speculative_ngram"),
        ({"speculative_ngram": (0, 2)}, "speculative_ngram"),
    ],
)
def test_options(engine: Build, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidConfigError, match=words):
        engine(**options)
