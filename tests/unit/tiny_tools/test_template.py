"""chat_template.jinja writes exactly the text that the training learns from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from examples.models.train_tiny_tools.dialogues import dialogue
from examples.models.train_tiny_tools.template import CHAT_TEMPLATE, pieces, prompt

FOLDER = Path("examples/models/tiny-tools")


def render(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, generate: bool) -> str:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = environment.from_string(CHAT_TEMPLATE)
    return template.render(messages=messages, tools=tools, add_generation_prompt=generate)


@pytest.mark.parametrize("number", range(60))
def test_template_is_what_is_trained_on(number: int) -> None:
    made = dialogue(f"template {number}", heldout=bool(number % 2))
    messages = made.messages()
    assert render(messages, made.tools, False) == "".join(text for text, _ in pieces(messages, made.tools))
    asked = messages[:-1]
    assert render(asked, made.tools or None, True) == prompt(asked, made.tools)


def test_arguments_may_be_text_or_object_and_content_may_be_missing() -> None:
    def messages(arguments: Any, content: Any) -> list[dict[str, Any]]:
        call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": arguments}}
        return [{"role": "user", "content": "hi"}, {"role": "assistant", "content": content, "tool_calls": [call]}]

    as_text = render(messages('{"a": 1}', None), None, False)
    assert as_text == render(messages({"a": 1}, ""), None, False)
    assert '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>' in as_text


def test_content_may_be_a_list_of_parts() -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "DeepServe?"}]
    assert render([{"role": "user", "content": parts}], None, False) == (
        "<|im_start|>user\nWhat is DeepServe?<|im_end|>\n"
    )


def test_the_committed_template_is_the_script_s() -> None:
    assert (FOLDER / "chat_template.jinja").read_text() == CHAT_TEMPLATE
