"""The tool-call parser: what it finds, and that it finds the same however the text arrives."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowserve.tool_calls import (
    ContentDelta,
    MalformedToolCall,
    ParsedText,
    ToolCall,
    ToolCallEvent,
    ToolCallStream,
    parse_tool_calls,
)


def call(name: str = "f", **arguments: Any) -> str:
    return "<tool_call>\n" + json.dumps({"name": name, "arguments": arguments}) + "\n</tool_call>"


CASES: dict[str, tuple[str, ParsedText]] = {
    "no call": ("Just text. 1 < 2, <b>, </tool_call>\n", ParsedText("Just text. 1 < 2, <b>, </tool_call>\n", ())),
    "nothing": ("", ParsedText("", ())),
    "white space": ("  \n ", ParsedText("  \n ", ())),
    "one call": (call(city="Paris", n=[None]), ParsedText(None, (ToolCall("f", {"city": "Paris", "n": [None]}),))),
    "text around": (
        f"Let me see.\n\n{call(a=1)}\n Done. ",
        ParsedText("Let me see.Done. ", (ToolCall("f", {"a": 1}),)),
    ),
    "two calls": (f"{call('f', a=1)}\n{call('g')}\n", ParsedText(None, (ToolCall("f", {"a": 1}), ToolCall("g", {})))),
    "on one line": (
        '<tool_call>{"name":"f","arguments":{}}</tool_call><tool_call>{"name":"g"}</tool_call>',
        ParsedText(None, (ToolCall("f", {}), ToolCall("g", {}))),
    ),
    "tags in a string": (
        call(html='</tool_call> "and" <tool_call> \\'),
        ParsedText(None, (ToolCall("f", {"html": '</tool_call> "and" <tool_call> \\'}),)),
    ),
    "arguments as text": (
        '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>',
        ParsedText(None, (ToolCall("f", {"a": 1}),)),
    ),
    "no closing tag": (
        'x <tool_call>{"name": "f", "arguments": {"ü": 1}}',
        ParsedText("x", (ToolCall("f", {"ü": 1}),)),
    ),
    "almost a tag": ("<tool_cal <tool_call", ParsedText("<tool_cal", (), (
        MalformedToolCall("<tool_call", "the text ends inside the opening tag"),))),
    "less than almost": ("a <t", ParsedText("a <t", ())),
    "thinking": ("<think>\nhm\n</think>\n\nhi", ParsedText("<think>\nhm\n</think>\n\nhi", ())),
}  # fmt: skip

BROKEN = {
    "not JSON": ("{name: f}", "not JSON"),
    "cut JSON": ('{"name": "f", "arguments": {', "not JSON"),
    "an open string": ('{"name": "f', "not JSON"),
    "a list": ("[1]", "not a JSON object"),
    "no name": ('{"arguments": {}}', "no 'name'"),
    "name is no text": ('{"name": 1}', "no 'name'"),
    "arguments are a list": ('{"name": "f", "arguments": [1]}', "not an object"),
    "arguments are no JSON": ('{"name": "f", "arguments": "x"}', "'arguments' is not JSON"),
    "empty": ("", "not JSON"),
}


def stream(pieces: list[str]) -> list[ToolCallEvent]:
    parser = ToolCallStream()
    events = [event for piece in pieces for event in parser.feed(piece)]
    return events + parser.finish()


def joined(events: list[ToolCallEvent]) -> list[ToolCallEvent]:
    """Neighbouring content as one, since where content is cut depends on the pieces."""
    result: list[ToolCallEvent] = []
    for event in events:
        if isinstance(event, ContentDelta) and result and isinstance(result[-1], ContentDelta):
            result[-1] = ContentDelta(result[-1].text + event.text)
        else:
            result.append(event)
    return result


@pytest.mark.parametrize("name", CASES)
def test_parse(name: str) -> None:
    text, expected = CASES[name]
    assert parse_tool_calls(text) == expected


@pytest.mark.parametrize("name", BROKEN)
def test_malformed_calls_are_reported(name: str) -> None:
    body, reason = BROKEN[name]
    parsed = parse_tool_calls(f"a <tool_call>\n{body}\n</tool_call> {call('g')} b")
    assert (parsed.content, parsed.tool_calls) == ("ab", (ToolCall("g", {}),))
    (malformed,) = parsed.malformed
    assert malformed.text == body.strip() and reason in malformed.reason


def test_cut_off_inside_a_call_is_reported() -> None:
    parsed = parse_tool_calls('a <tool_call>{"name": "f", "argu')
    assert (parsed.content, parsed.tool_calls) == ("a", ())
    assert parsed.malformed == (MalformedToolCall('{"name": "f", "argu', "the text ends inside the call"),)


TEXTS = [text for text, _ in CASES.values()]
TEXTS += [f"a <tool_call>{body}</tool_call>\n{call()} b" for body, _ in BROKEN.values()]
PARTS = ["<tool_call>", "</tool_call>", "<tool", "_call>", '{"name": "f"}', '"', "\\", " ", "\n", "x", "<"]


@pytest.mark.parametrize("text", TEXTS)
def test_every_split_in_two_and_every_character_alone(text: str) -> None:
    expected = joined(stream([text]))
    for cut in range(len(text) + 1):
        assert joined(stream([text[:cut], text[cut:]])) == expected
    assert joined(stream(list(text))) == expected


@settings(max_examples=500)
@given(
    parts=st.lists(st.sampled_from(PARTS), max_size=14),
    cuts=st.lists(st.integers(0, 100), max_size=6),
)
def test_any_text_in_any_pieces(parts: list[str], cuts: list[int]) -> None:
    """Nothing depends on the pieces, no event is empty, and no content holds or ends in the opening tag."""
    text = "".join(parts)
    edges = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    events = stream([text[start:end] for start, end in zip(edges, edges[1:], strict=False)])
    assert joined(events) == joined(stream([text]))
    assert all(event.text for event in events if isinstance(event, ContentDelta))
    assert not any("<tool_call>" in event.text for event in joined(events) if isinstance(event, ContentDelta))


def test_content_leaves_as_soon_as_it_is_certain() -> None:
    parser = ToolCallStream()
    assert parser.feed("Let me") == [ContentDelta("Let me")]
    assert parser.feed(" check ") == [ContentDelta(" check")]
    assert parser.feed("<tool") == []
    assert parser.feed("s> are") == [ContentDelta(" <tools> are")]
    assert parser.feed("\n<tool_call>") == []
    assert parser.feed('{"name": "f"}') == []
    assert parser.feed("</tool_call>") == [ToolCall("f", {})]
    assert parser.feed("\n\n") == []
    assert parser.feed("and") == [ContentDelta("and")]
    assert parser.finish() == []


def test_a_malformed_call_is_reported_at_its_closing_tag() -> None:
    (event,) = ToolCallStream().feed("<tool_call>{oops}</tool_call>")
    assert isinstance(event, MalformedToolCall) and event.text == "{oops}"
