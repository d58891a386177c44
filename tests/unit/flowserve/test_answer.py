"""Answers in parts: reasoning, calls, text, wherever the text is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowserve.answer import AnswerFormat
from flowserve.errors import InvalidConfigError
from flowserve.reasoning import ReasoningSplitter
from flowserve.template_sources import template_text
from flowserve.tool_calls import ReasoningDelta, TextDelta
from tests.unit.flowserve.tool_calls.events import run, told

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
READ = ("f", '{"a": 1}', None)
THINKING = AnswerFormat(has_reasoning=True)
CASES: list[tuple[str, str, list[Any]]] = [
    ("", "Hi <think>", ["Hi <think>"]),
    ("", "<think>\nWell.\n</think>\n\nHi", [("think", "Well."), "Hi"]),
    ("", " \n<think>a b</think>", [("think", "a b")]),
    ("", "<think>cut off ", [("think", "cut off")]),
    ("", "<think>\n\n</think>\n\nHi", ["Hi"]),
    ("", f"<think>Maybe {CALL}?</think>{CALL} ok", [("think", f"Maybe {CALL}?"), READ, "ok"]),
    ("", "<thin", ["<thin"]),
    ("", "  text", ["  text"]),
    ("", "<think>a</think>b</think>c", [("think", "a"), "b</think>c"]),
    ("<assistant><think>\n", "Well. </think> Hi", [("think", "Well."), "Hi"]),
    ("<assistant><think>\n", f"Well.</think>\n{CALL}", [("think", "Well."), READ]),
    ("<assistant><think>\n\n</think>\n\n", "Hi", ["Hi"]),
    ("<assistant><think>", "never closed", [("think", "never closed")]),
]


@pytest.mark.parametrize("prompt, text, expected", CASES)
def test_parts(prompt: str, text: str, expected: list[Any]) -> None:
    for cut in range(len(text) + 1):
        assert told(run(THINKING.stream(prompt, has_tools=True), [text[:cut], text[cut:]])) == expected
    assert told(run(THINKING.stream(prompt, has_tools=True), list(text))) == expected


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    parts=st.lists(st.sampled_from(["<think>", "</think>", CALL, " ", "\n", "x", "<", "</think"]), max_size=8),
    cuts=st.lists(st.integers(0, 80), max_size=5),
    starts_inside=st.booleans(),
)
def test_any_text_in_any_pieces(parts: list[str], cuts: list[int], starts_inside: bool) -> None:
    text, prompt = "".join(parts), "<think>" if starts_inside else ""
    edges = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[start:end] for start, end in zip(edges, edges[1:], strict=False)]
    found = told(run(THINKING.stream(prompt, has_tools=True), pieces))
    assert found == told(run(THINKING.stream(prompt, has_tools=True), [text]))
    letters = "".join(item if isinstance(item, str) else item[1] for item in found)
    assert letters.count("x") == text.count("x")


def test_reasoning_leaves_as_it_comes() -> None:
    splitter = ReasoningSplitter()
    assert splitter.feed("<thi") == []
    assert splitter.feed("nk>\nLet me") == [ReasoningDelta("Let me")]
    assert splitter.feed(" see </thi") == [ReasoningDelta(" see")]
    assert splitter.feed("s") == [ReasoningDelta(" </this")]
    assert splitter.feed("</think>\n") == []
    assert splitter.feed("\nHi") == [TextDelta("Hi")]
    assert splitter.feed(" <think>") == [TextDelta(" <think>")]
    assert splitter.finish() == []


def test_without_tools_or_reasoning_all_is_text() -> None:
    text = f"<think>a</think> {CALL}"
    assert told(run(AnswerFormat().stream(), [text])) == [text]
    assert told(run(THINKING.stream(), [text])) == [("think", "a"), CALL]
    assert told(run(AnswerFormat().stream(has_tools=True), [text])) == ["<think>a</think>", READ]


def test_formats_of_models() -> None:
    assert AnswerFormat.of_template("<tool_call>{% if '</think>' in content %}") == AnswerFormat("hermes", True)
    mistral = AnswerFormat.of_template("[TOOL_CALLS]")
    assert mistral.calls == "mistral" and mistral.needs_special_tokens and not mistral.has_reasoning
    assert AnswerFormat.of_template("{{ messages }}") == AnswerFormat("hermes", False)
    with pytest.raises(InvalidConfigError, match="no tool call format 'x'; there are hermes"):
        AnswerFormat("x")


def test_the_format_of_a_folder_is_that_of_its_templates(tmp_path: Path) -> None:
    more = tmp_path / "additional_chat_templates"
    more.mkdir()
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    (more / "tool_use.jinja").write_text("[TOOL_CALLS]</think>")
    assert AnswerFormat.of_template(template_text(tmp_path)) == AnswerFormat("mistral", True)
