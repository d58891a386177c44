"""Output under a grammar always fits it, from random weights, or is honestly cut off."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from flowserve import SamplingParams, StructuredOutputsParams
from flowserve.errors import InvalidGrammarError

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "bü", '"'], "type": "string"}, "maxItems": 3},
        "next": {"anyOf": [{"type": "null"}, {"type": "boolean"}, {"type": "number"}]},
    },
    "required": ["name", "age", "tags", "next"],
    "additionalProperties": False,
}


def outputs(llm: Any, structured: StructuredOutputsParams, count: int, **params: Any) -> list[Any]:
    each = [
        SamplingParams(seed=seed, structured_outputs=structured, **{"temperature": 1.5, **params})
        for seed in range(count)
    ]
    return [output.outputs[0] for output in llm.generate(["x"] * count, each)]


def test_json_schema(llm: Callable[..., Any]) -> None:
    finished = 0
    for output in outputs(llm(), StructuredOutputsParams(json=PERSON), 40, max_tokens=120):
        if output.finish_reason == "length":
            continue
        finished += 1
        value = json.loads(output.text)
        assert value.keys() == {"name", "age", "tags", "next"}
        assert len(value["name"]) <= 20 and 0 <= value["age"] <= 150
        assert set(value["tags"]) <= {"a", "bü", '"'} and len(value["tags"]) <= 3
        assert value["next"] is None or isinstance(value["next"], bool | int | float)
    assert finished >= 30


def test_cut_off_is_length_and_a_prefix(llm: Callable[..., Any]) -> None:
    each = llm()
    structured = StructuredOutputsParams(json=json.dumps(PERSON))
    whole = outputs(each, structured, 10, max_tokens=200)
    for full, cut in zip(whole, outputs(each, structured, 10, max_tokens=9), strict=True):
        assert cut.finish_reason == "length" and cut.token_ids == full.token_ids[:9]
        with pytest.raises(ValueError):
            json.loads(cut.text)


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"top_k": 3}, {"top_p": 0.5}, {"ignore_eos": True}])
def test_regex_under_every_way_of_sampling(params: dict[str, Any], llm: Callable[..., Any]) -> None:
    for output in outputs(llm(), StructuredOutputsParams(regex="[a-c]{3}-[0-9]{2,4}"), 10, max_tokens=50, **params):
        assert output.finish_reason == "stop" and re.fullmatch("[a-c]{3}-[0-9]{2,4}", output.text)


def test_choice(llm: Callable[..., Any]) -> None:
    choice = ["yes", 'no "thanks"', "grüße\n", "yesterday"]
    found = {
        (output.text, output.finish_reason)
        for output in outputs(llm(), StructuredOutputsParams(choice=choice), 40, max_tokens=50)
    }
    assert found <= {(text, "stop") for text in choice} and len(found) > 1


def test_grammar(llm: Callable[..., Any]) -> None:
    for output in outputs(llm(), StructuredOutputsParams(grammar='start: "a" "b"+ "!"'), 5, max_tokens=100):
        assert re.fullmatch("ab+!", output.text) or output.finish_reason == "length"


def test_grammar_survives_preemption(engine: Callable[..., Any]) -> None:
    from tests.unit.flowserve.running import run_to_end

    tight = engine(num_kv_blocks=24, block_size=4, max_model_len=96)
    structured = StructuredOutputsParams(json=PERSON)
    for seed in range(4):
        tight.add(str(seed), [seed + 3] * 12, SamplingParams(seed=seed, max_tokens=80, structured_outputs=structured))
    results = run_to_end(tight)
    assert tight.stats().num_preemptions > 0
    for result in results.values():
        assert result["reason"] == "length" or json.loads(result["text"]).keys() == PERSON["properties"].keys()


def test_a_vocabulary_padded_beyond_the_tokenizer(models: Callable[..., Any], llm: Callable[..., Any]) -> None:
    padded = llm(models(vocab_size=437))
    for output in outputs(padded, StructuredOutputsParams(regex="[a-z]{5}"), 10, max_tokens=20):
        assert re.fullmatch("[a-z]{5}", output.text)


def test_any_json_object(llm: Callable[..., Any]) -> None:
    finished = 0
    for output in outputs(llm(), StructuredOutputsParams(json_object=True), 20, max_tokens=100):
        assert output.text.startswith("{")
        if output.finish_reason == "stop":
            finished += 1
            assert isinstance(json.loads(output.text), dict)
    assert finished > 2


def test_greedy_tokens_that_fit_need_no_mask_and_are_the_same(
    llm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    structured = StructuredOutputsParams(json=PERSON)
    quick = outputs(llm(), structured, 2, temperature=0.0, max_tokens=80)
    monkeypatch.setattr("flowserve.structured.GrammarMatcher.allows", lambda self, token_id: False)
    slow = outputs(llm(), structured, 2, temperature=0.0, max_tokens=80)
    assert [output.token_ids for output in quick] == [output.token_ids for output in slow]


def test_each_completion_has_a_grammar_of_its_own(llm: Callable[..., Any]) -> None:
    (output,) = llm().generate(
        ["x"], SamplingParams(n=4, seed=1, max_tokens=30, structured_outputs=StructuredOutputsParams(regex="[a-f]{6}"))
    )
    texts = [completion.text for completion in output.outputs]
    assert all(re.fullmatch("[a-f]{6}", text) for text in texts) and len(set(texts)) > 1


def test_a_grammar_and_bad_words_that_leave_nothing_end_their_sequence_alone(llm: Callable[..., Any]) -> None:
    impossible = SamplingParams(
        structured_outputs=StructuredOutputsParams(regex="7+"), bad_words=["7"], max_tokens=5, temperature=0.0
    )
    good = SamplingParams(temperature=0.0, max_tokens=5, ignore_eos=True)
    bad, other = llm().generate(["x", "x"], [impossible, good])
    assert bad.outputs[0].finish_reason == "abort" and "no token may come next" in bad.outputs[0].error
    assert len(other.outputs[0].token_ids) == 5


@pytest.mark.parametrize(
    "structured, words",
    [
        (StructuredOutputsParams(regex=r"[^\s\S]"), "no output fits"),
        (StructuredOutputsParams(grammar="start: start"), "no output fits"),
        (StructuredOutputsParams(grammar='start: "a" other'), "other"),
        (StructuredOutputsParams(json={"type": "string", "minLength": 5, "maxLength": 2}), "minLength"),
        (StructuredOutputsParams(json={"$ref": "#/nowhere"}), "nowhere"),
        (StructuredOutputsParams(json="{"), "not a JSON schema"),
    ],
)
def test_what_no_output_could_fit_is_refused(
    llm: Callable[..., Any], structured: StructuredOutputsParams, words: str
) -> None:
    with pytest.raises(InvalidGrammarError, match=words) as found:
        outputs(llm(), structured, 1)
    assert len(str(found.value)) < 300, "not its whole state"


def test_thousands_of_choices(llm: Callable[..., Any]) -> None:
    choice = [f"choice number {number}" for number in range(3000)]
    for output in outputs(llm(), StructuredOutputsParams(choice=choice), 3, max_tokens=60):
        assert output.text in choice and output.finish_reason == "stop"


def test_a_grammar_that_grows_too_large_ends_its_sequence_alone(llm: Callable[..., Any]) -> None:
    wide = "start: " + " | ".join(f'"a" x{number}' for number in range(2500))
    rules = "\n".join(f'x{number}: "b{number}"' for number in range(2500))
    params = SamplingParams(structured_outputs=StructuredOutputsParams(grammar=f"{wide}\n{rules}"), max_tokens=5)
    good = SamplingParams(temperature=0.0, max_tokens=5, ignore_eos=True)
    bad, other = llm().generate(["x", "x"], [params, good])
    assert bad.outputs[0].finish_reason == "abort" and len(bad.outputs[0].error) < 300
    assert "2500 items" in bad.outputs[0].error
    assert len(other.outputs[0].token_ids) == 5
