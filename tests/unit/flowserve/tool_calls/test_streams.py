"""Calls as they stream, in every format: what is a call, what is text, wherever the text is cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowserve.tool_calls import (
    FORMATS,
    ArgumentsDelta,
    CallEnd,
    CallStart,
    TextDelta,
    format_of_template,
    make_parser,
)
from flowserve.tool_calls.events import CUT_OFF
from flowserve.tool_calls.json_call import JsonScanner
from tests.unit.flowserve.tool_calls.events import run, told

A = '{"city": "Paris"}'
F = '{"name": "f", "arguments": {"city": "Paris"}}'
P = '{"name": "f", "parameters": {"city": "Paris"}}'


def bad(text: str, error: str) -> Any:
    return ("malformed", text, error)


CASES: dict[str, list[tuple[str, list[Any]]]] = {
    "hermes": [
        ("", []),
        ("just text <b>", ["just text <b>"]),
        (f"<tool_call>\n{F}\n</tool_call>", [("f", A, None)]),
        (f"Let me look. <tool_call>{F}</tool_call> Done.", ["Let me look.", ("f", A, None), "Done."]),
        (f"<tool_call>{F}</tool_call>\n<tool_call>{F}</tool_call>", [("f", A, None)] * 2),
        ('<tool_call>{"name": "f"}</tool_call>', [("f", "{}", None)]),
        ('<tool_call>{"name": "f", "arguments": null}</tool_call>', [("f", "{}", None)]),
        ('<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', [("f", '{"a": 1}', None)]),
        ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', [("f", '{"a": 1}', None)]),
        ('<tool_call>{"name": "f", "arguments": {"a": "</tool_call>"}}</tool_call>',
         [("f", '{"a": "</tool_call>"}', None)]),
        ('<tool_call>{"name": "\\u0066", "arguments": {"a": "\\"}\\\\"}, "id": 3}</tool_call>',
         [("f", '{"a": "\\"}\\\\"}', None)]),
        (f"<tool_call>{F}", [("f", A, None)]),
        (f"<tool_call>{F}\n</tool_c", [("f", A, None)]),
        (f"<tool_call>{F} and more</tool_call>", [("f", A, None), "and more"]),
        ('<tool_call>{"name": "f", "arguments": {"a": ', [("f", '{"a": ', CUT_OFF)]),
        ("<tool_call>oops</tool_call> and", [bad("<tool_call>oops</tool_call>", "not a JSON object"), " and"]),
        ('<tool_call>["f"]</tool_call>', [bad('<tool_call>["f"]</tool_call>', "not a JSON object")]),
        ('<tool_call>{"name": 3, "arguments": {}}</tool_call>',
         [bad('<tool_call>{"name": 3, "arguments": {}}</tool_call>', "no 'name'")]),
        ('<tool_call>{"arguments": {}}</tool_call>', [bad('<tool_call>{"arguments": {}}</tool_call>', "no 'name'")]),
        ('<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
         [bad('<tool_call>{"name": "f", "arguments": [1]}</tool_call>', "'arguments' is not a JSON object")]),
        ('<tool_call>{"name": "f", "arguments": "[1]"}</tool_call>',
         [bad('<tool_call>{"name": "f", "arguments": "[1]"}</tool_call>', "'arguments' is not a JSON object")]),
        ("<tool_call></tool_call>", [bad("<tool_call></tool_call>", "not a JSON object")]),
        ("<tool_call>", [bad("<tool_call>", CUT_OFF)]),
        ('<tool_call>{"name": "f", "argu', [bad('<tool_call>{"name": "f", "argu', CUT_OFF)]),
        ("a <tool_ca", ["a", bad("<tool_ca", CUT_OFF)]),
        ("a <t", ["a <t"]),
        ("Just text. 1 < 2, <b>, </tool_call>\n", ["Just text. 1 < 2, <b>, </tool_call>\n"]),
        (f"<tool_call>{{x}}</tool_call><tool_call>{F}</tool_call>",
         [bad("<tool_call>{x}</tool_call>", "not JSON"), ("f", A, None)]),
    ],
    "mistral": [
        ("just [text]", ["just [text]"]),
        (f"[TOOL_CALLS] [{F}]", [("f", A, None)]),
        (f"[TOOL_CALLS][{F}, {F}] and text", [("f", A, None), ("f", A, None), "and text"]),
        (f"Sure. [TOOL_CALLS]f[ARGS]{A}", ["Sure.", ("f", A, None)]),
        (f"[TOOL_CALLS]f{A}[TOOL_CALLS]g.h-1[CALL_ID]a1[ARGS]{{}}", [("f", A, None), ("g.h-1", "{}", None)]),
        ('[TOOL_CALLS]f[ARGS]{"a": [1, "]}"], "b": {', [("f", '{"a": [1, "]}"], "b": {', CUT_OFF)]),
        ("[TOOL_CALLS]f[ARGS]{a}", [("f", "{a}", "not JSON")]),
        (f"[TOOL_CALLS][{F}, {{", [("f", A, None), bad("[TOOL_CALLS][{", CUT_OFF)]),
        ('[TOOL_CALLS][{"name": "f", "arguments": {"a"', [("f", '{"a"', CUT_OFF)]),
        ("[TOOL_CALLS] nonsense", [bad("[TOOL_CALLS] nonsense", CUT_OFF)]),
        ("[TOOL_CALLS]" + "so " * 80, [bad("[TOOL_CALLS]", "no name and arguments follow"), "so " * 80]),
        ("[TOOL_CALLS][{}, 2]", [bad("[TOOL_CALLS][{}", "no 'name'"), ", 2]"]),
        (f"[TOOL_CALLS][{F}, ", [("f", A, None)]),
        ("[TOOL_CALLS][", [bad("[TOOL_CALLS][", CUT_OFF)]),
        ("[TOOL_CALLS][1, 2]", [bad("[TOOL_CALLS][", "not a JSON object"), "1, 2]"]),
        ("a [TOOL_", ["a", bad("[TOOL_", CUT_OFF)]),
    ],
    "llama3_json": [
        ("Hello { there", ["Hello { there"]),
        (P, [("f", A, None)]),
        (f"\n{P}; {P}\n", [("f", A, None)] * 2),
        (f"<|python_tag|>{P}", [("f", A, None)]),
        (f"I look: <|python_tag|>{P}", ["I look: ", ("f", A, None)]),
        ('{"type": "function", "name": "f", "parameters": {"a": 1}}', [("f", '{"a": 1}', None)]),
        ('<|python_tag|>brave_search.call(query="who?", n=2)', [("brave_search", '{"query": "who?", "n": 2}', None)]),
        ("<|python_tag|>print(3)", [bad("<|python_tag|>print(3)", "no call with named arguments")]),
        ('{"answer": 42} is it', ['{"answer": 42} is it']),
        ('{"name": "f"', [bad('{"name": "f"', CUT_OFF)]),
        ("<|python_tag|>", [bad("<|python_tag|>", CUT_OFF)]),
        ('{"name": 3} text', ['{"name": 3} text']),
        ('{"name": "f", "parameters": {"a"', [("f", '{"a"', CUT_OFF)]),
        ("a <|pyth", ["a <|pyth"]),
    ],
    "pythonic": [
        ("Just text [1]", ["Just text [1]"]),
        ('[f(city="Paris")]', [("f", A, None)]),
        ("[f(a=1, b=[True, null], c={'d': -2.5}), m.g()]",
         [("f", '{"a": 1, "b": [true, null], "c": {"d": -2.5}}', None), ("m.g", "{}", None)]),
        ('[f(a="\\ud83d\\ude00")]', [("f", '{"a": "😀"}', None)]),
        *((text, [bad(text, "no list of calls with named arguments")])
          for text in ("[f(1)]", "[f(a=x)]", "[f(**{})]", '[f(a="', "[f(a={[1]: 2})]", "[f(a={{}: 2})]")),
        ("[]", ["[]"]),
        ("[Note] this", ["[Note] this"]),
        ("  ", ["  "]),
    ],
}  # fmt: skip
ALL = [(name, text, expected) for name, cases in CASES.items() for text, expected in cases]


def shortened(events: list[Any]) -> list[Any]:
    """Of json's own words only that it is none."""
    return [
        (*item[:2], "not JSON") if isinstance(item, tuple) and item[-1] and item[-1].startswith("not JSON") else item
        for item in told(events)
    ]


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("call", ['{"name": "a\\q", "arguments": {"b": 1}}', '{"name": "a\\u12", "arguments": {'])
def test_a_name_with_an_escape_that_json_does_not_know_is_no_call(name: str, call: str) -> None:
    for text in (call, f"<tool_call>{call}</tool_call>", f"[TOOL_CALLS][{call}]"):
        events = run(make_parser(name), list(text))
        assert not [event for event in events if isinstance(event, CallStart) and "a" == event.name[:1]]


@pytest.mark.parametrize("name, text, expected", ALL)
def test_read(name: str, text: str, expected: list[Any]) -> None:
    assert shortened(run(make_parser(name), [text])) == expected


@pytest.mark.parametrize("name, text, expected", ALL)
def test_every_split_in_two_and_every_character_alone(name: str, text: str, expected: list[Any]) -> None:
    for cut in range(len(text) + 1):
        assert shortened(run(make_parser(name), [text[:cut], text[cut:]])) == expected
    assert shortened(run(make_parser(name), list(text))) == expected


PARTS = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", F, P, A, '"', "\\", " ", "{", "}",
         "[", "]", ",", ";", "x", "f(a=1)", '{"name": "f"}', '"name"', "<"]  # fmt: skip


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    name=st.sampled_from(list(FORMATS)),
    parts=st.lists(st.sampled_from(PARTS), max_size=12),
    cuts=st.lists(st.integers(0, 120), max_size=6),
)
def test_any_text_in_any_pieces_loses_nothing(name: str, parts: list[str], cuts: list[int]) -> None:
    """The same events wherever it is cut, and every character that is no mark of the format is somewhere."""
    text = "".join(parts)
    edges = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    events = run(make_parser(name), [text[start:end] for start, end in zip(edges, edges[1:], strict=False)])
    found = told(events)
    assert found == told(run(make_parser(name), [text]))
    letters = "".join(item if isinstance(item, str) else item[0] + item[1] for item in found)
    assert letters.count("x") == text.count("x")
    if not any(isinstance(item, tuple) for item in found):
        assert "".join(letters.split()) == "".join(text.split()), "without calls all of it is text"


def test_a_call_streams_name_then_fragments_then_end() -> None:
    parser = make_parser("hermes")
    assert parser.feed("Let me ") == [TextDelta("Let me")]
    assert parser.feed("<tool_call>") == []
    assert parser.feed('\n{"name": "f", "argum') == []
    assert parser.feed('ents": {"a') == [CallStart(0, "f"), ArgumentsDelta(0, '{"a')]
    assert parser.feed('": "</tool') == [ArgumentsDelta(0, '": "')]
    assert parser.feed('s>"') == [ArgumentsDelta(0, '</tools>"')]
    assert parser.feed("}") == [ArgumentsDelta(0, "}")]
    assert parser.feed("}\n") == [CallEnd(0)]
    assert parser.feed("</tool_call>") == []
    assert parser.finish() == []
    parser = make_parser("mistral")
    assert parser.feed("[TOOL_CALLS]f[ARGS]") == []
    assert parser.feed('{"a"') == [CallStart(0, "f"), ArgumentsDelta(0, '{"a"')]
    assert parser.feed(": 1}") == [ArgumentsDelta(0, ": 1}"), CallEnd(0)]
    parser = make_parser("llama3_json")
    assert parser.feed('{"name": "f", "parameters": {"a"') == [CallStart(0, "f"), ArgumentsDelta(0, '{"a"')]
    assert parser.feed(": 1}}") == [ArgumentsDelta(0, ": 1}"), CallEnd(0)]
    assert make_parser("llama3_json").feed('{"answer": ') == [TextDelta('{"answer": ')], "a JSON answer streams"


@settings(max_examples=40, derandomize=True, deadline=None)
@given(value=st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=8,
).filter(lambda value: isinstance(value, dict | list)), ascii=st.booleans())  # fmt: skip
def test_the_end_of_json_is_found(value: Any, ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii)
    assert JsonScanner().find_end(text + ' }]"') == len(text)
    scanner = JsonScanner()
    found = [scanner.find_end(text[:count]) for count in range(1, len(text) + 1)]
    assert found == [-1] * (len(text) - 1) + [len(text)]


@settings(max_examples=100, derandomize=True, deadline=None)
@given(
    arguments=st.dictionaries(st.text(max_size=5), st.one_of(st.text(max_size=8), st.integers(), st.none())),
    chunk=st.integers(1, 7),
)
def test_arguments_arrive_as_they_were(arguments: dict[str, Any], chunk: int) -> None:
    written = json.dumps(arguments, ensure_ascii=False)
    for name, text in [
        ("hermes", f'<tool_call>\n{{"name": "f", "arguments": {written}}}\n</tool_call>'),
        ("mistral", f'[TOOL_CALLS][{{"name": "f", "arguments": {written}}}]'),
        ("mistral", f"[TOOL_CALLS]f[ARGS]{written}"),
        ("llama3_json", f'{{"name": "f", "parameters": {written}}}'),
    ]:
        pieces = [text[start : start + chunk] for start in range(0, len(text), chunk)]
        assert told(run(make_parser(name), pieces)) == [("f", written, None)]


def test_formats_by_template() -> None:
    assert format_of_template("...<tool_call>\n{...}") == "hermes"
    assert format_of_template("{{ '[TOOL_CALLS] ' + ... }}") == "mistral"
    assert format_of_template('Respond in the format {"name": function, "parameters": dict}') == "llama3_json"
    assert format_of_template("[func_name1(params_name1=params_value1, ...)]") == "pythonic"
    assert format_of_template("{{ messages }}") is None
    with pytest.raises(KeyError):
        make_parser("none such")
