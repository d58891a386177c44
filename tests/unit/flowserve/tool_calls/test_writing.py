"""Calls that a grammar forces: whatever a model draws under it, the format's parser finds calls that fit."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowserve.answer import AnswerFormat
from flowserve.errors import InvalidGrammarError
from flowserve.sampling_params import StructuredOutputsParams
from flowserve.structured import GrammarCompiler
from flowserve.tokenizer import Tokenizer
from flowserve.tool_calls import FORMATS, make_parser
from tests.unit.flowserve.tool_calls.events import run, told

FOLDER = Path("examples/models/tiny-tools")
WEATHER = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"$ref": "#/$defs/city"},
            "days": {"type": "integer", "minimum": 1, "maximum": 7},
            "units": {"type": "array", "items": {"enum": ["°C", None, True]}, "maxItems": 2},
        },
        "required": ["days"],
        "$defs": {"city": {"type": "string", "maxLength": 6}},
    },
}
NOTHING = {"name": "stop"}
OPTIONAL = {"name": "note", "parameters": {"properties": {"a": {"type": "boolean"}, "b": {"const": "x"}}}}
MISTRAL_MARKS: list[tuple[str, ...]] = [("[TOOL_CALLS]",), ("[TOOL_CALLS]", "[ARGS]")]
FUNCTIONS = [WEATHER, NOTHING, OPTIONAL]


@cache
def tokenizer(*marks: str) -> Tokenizer:
    """That of the tiny model, with these special tokens more."""
    plain = Tokenizer.from_folder(FOLDER)
    plain._rust.add_special_tokens(list(marks))
    return plain


@cache
def compiler(*marks: str) -> GrammarCompiler:
    used = tokenizer(*marks)
    return GrammarCompiler(used, used.vocab_size, used.eos_token_ids)


def drawn(grammar: str, seed: int, *marks: str, begun: str = "") -> str:
    """What a model that finds every token equally likely writes under a grammar, behind what is begun: then it ends as
    soon as it may."""
    used = tokenizer(*marks)
    matcher = compiler(*marks).compile(StructuredOutputsParams(grammar=grammar)).copy()
    rng = np.random.default_rng(seed)
    tokens = used.encode(begun, add_special_tokens=False)
    for token in tokens:
        assert matcher.allows(token), used.token(token)
        matcher.accept(token)
    while not matcher.is_done:
        logits = rng.gumbel(size=used.vocab_size).astype(np.float32)
        logits[list(used.eos_token_ids)] += 100.0 if begun else 0.0
        matcher.mask(logits)
        token = int(logits.argmax())
        matcher.accept(token)
        if token in used.eos_token_ids:
            break
        tokens.append(token)
        assert len(tokens) < 2000
    return used.decode(tokens, skip_special_tokens=False)


def check(name: str, text: str) -> int:
    """Number of calls, none of which breaks its schema."""
    calls = told(run(make_parser(name), list(text)))
    assert all(isinstance(call, tuple) and call[-1] is None for call in calls), text
    for function, arguments, _ in calls:
        given = json.loads(arguments)
        if function == "get_weather":
            assert set(given) <= {"city", "days", "units"} and 1 <= given["days"] <= 7
            assert len(given.get("city", "")) <= 6 and all(
                unit in ("°C", None, True) for unit in given.get("units", ())
            )
        elif function == "note":
            assert set(given) <= {"a", "b"} and given.get("b", "x") == "x" and given.get("a", True) in (True, False)
        else:
            assert (function, given) == ("stop", {})
    return len(calls)


MARKED = [(name, ()) for name in FORMATS] + [("mistral", marks) for marks in MISTRAL_MARKS]


@pytest.mark.parametrize(("name", "marks"), MARKED)
def test_any_output_is_calls_that_fit(name: str, marks: tuple[str, ...]) -> None:
    form = AnswerFormat(name)
    for max_calls in (1, None):
        grammar = form.forced_calls(FUNCTIONS, max_calls, tokenizer(*marks).token_id)
        numbers = [check(name, drawn(grammar, seed, *marks)) for seed in range(25)]
        assert set(numbers) == {1} if max_calls else min(numbers) == 1 < max(numbers)


PARIS = '{"city": "Paris", "days": 2}'
WRITTEN: list[tuple[str, tuple[str, ...], str]] = [
    ("hermes", (), '<tool_call>\n{"name": "get_weather", "arguments": %s}\n</tool_call>'),
    ("llama3_json", (), '{"name": "get_weather", "parameters": %s}'),
    ("mistral", (), '[TOOL_CALLS] [{"name": "get_weather", "arguments": %s}]'),
    ("mistral", ("[TOOL_CALLS]",), '[TOOL_CALLS][{"name": "get_weather", "arguments": %s}]'),
    ("mistral", ("[TOOL_CALLS]", "[ARGS]"), "[TOOL_CALLS]get_weather[ARGS]%s"),
    ("pythonic", (), '[get_weather(city="Paris", days=2)]'),
]


@pytest.mark.parametrize(("name", "marks", "text"), WRITTEN)
def test_a_model_may_write_what_it_learned(name: str, marks: tuple[str, ...], text: str) -> None:
    """Token for token as its tokenizer writes the calls in its template: the marks, too, are tokens of their own."""
    used = tokenizer(*marks)
    grammar = AnswerFormat(name).forced_calls(FUNCTIONS, 1, used.token_id)
    matcher = compiler(*marks).compile(StructuredOutputsParams(grammar=grammar)).copy()
    tokens = used.encode(text % PARIS if "%s" in text else text, add_special_tokens=False)
    for token in tokens:
        assert matcher.allows(token), used.token(token)
        matcher.accept(token)
    assert matcher.is_done and matcher.error is None
    assert {used.token_id(mark) for mark in marks} <= set(tokens)


IN_TEXT: list[tuple[str, tuple[str, ...], str]] = [
    ("hermes", (), "<tool_call>"),
    ("mistral", ("[TOOL_CALLS]",), "[TOOL_CALLS]"),
    ("mistral", ("[TOOL_CALLS]", "[ARGS]"), "[TOOL_CALLS]"),
]


@pytest.mark.parametrize(("name", "marks", "mark"), IN_TEXT)
def test_what_begins_like_a_call_within_text_is_one_that_fits(name: str, marks: tuple[str, ...], mark: str) -> None:
    used = tokenizer(*marks)
    for max_calls in (1, None):
        grammar = AnswerFormat(name, has_reasoning=True).strict_calls(FUNCTIONS, max_calls, used.token_id)
        assert grammar is not None
        for text in ("", "<think>\nHm.\n</think>\n", "{Let me see: [1, 2]} \n"):
            for seed in range(5):
                written = drawn(grammar, seed, *marks, begun=text + mark)
                number = check(name, written.removeprefix(text))
                assert number == 1 or (max_calls is None and number > 1)
        assert drawn(grammar, 0, *marks, begun="Nothing to call.") == "Nothing to call."
    first = drawn(grammar, 0, *marks, begun=mark)
    if name == "hermes":
        assert check(name, drawn(grammar, 1, begun=f"{first}\n{mark}")) == 2
        compiled = compiler().compile(StructuredOutputsParams(grammar=grammar)).copy()
        for token in used.encode(mark, add_special_tokens=False):
            compiled.accept(token)
        assert not compiled.allows(used.encode("Paris", add_special_tokens=False)[0])


@pytest.mark.parametrize(("name", "marks"), [("llama3_json", ()), ("pythonic", ()), ("mistral", ())])
def test_calls_without_a_token_of_their_own_cannot_be_told_from_text(name: str, marks: tuple[str, ...]) -> None:
    assert AnswerFormat(name).strict_calls(FUNCTIONS, None, tokenizer(*marks).token_id) is None


def function(name: str = "f", **schema: Any) -> dict[str, Any]:
    return {"name": name, "parameters": schema}


@pytest.mark.parametrize(
    ("name", "bad", "culprit"),
    [
        ("pythonic", function("get-weather"), "'get-weather'"),
        ("pythonic", function("class"), "'class'"),
        ("pythonic", function(anyOf=[{"required": ["a"]}]), "'anyOf'"),
        ("pythonic", function(properties={"first-name": {}}), "'first-name'"),
        ("pythonic", function(properties={}, required=["a"]), "'a'"),
        ("pythonic", function(properties=[]), "properties"),
        ("pythonic", function(required=3), "required"),
    ],
)
def test_what_python_cannot_say_is_refused(name: str, bad: dict[str, Any], culprit: str) -> None:
    with pytest.raises(InvalidGrammarError, match=culprit):
        AnswerFormat(name).forced_calls([bad], None, tokenizer().token_id)


def test_bare_names_have_no_blanks() -> None:
    used = tokenizer("[TOOL_CALLS]", "[ARGS]")
    with pytest.raises(InvalidGrammarError, match="'get weather'"):
        AnswerFormat("mistral").forced_calls([function("get weather")], 1, used.token_id)
    assert check("hermes", drawn(AnswerFormat("hermes").forced_calls([NOTHING], 1, used.token_id), 0)) == 1
