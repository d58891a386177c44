"""Rendered chats equal transformers' apply_chat_template, character for character."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from flowserve.chat_template import ChatTemplate
from flowserve.errors import ChatTemplateError, CheckpointError, ModelNotFoundError

Models = Callable[..., Path]

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather <now> & 'later' in a city, e.g. Zürich",
        "parameters": {"type": "object", "properties": {"z": {"type": "string"}, "a": {"enum": [1, None, True]}}},
    },
}
CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"z": 'a "quoted" </tag> ü', "a": 1}}}
CHATS: dict[str, list[dict[str, Any]]] = {
    "one": [{"role": "user", "content": "hi <b>&amp;</b>\n"}],
    "system": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "你好 🙂"}],
    "turns": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": " b \n"},
        {"role": "user", "content": "c"},
    ],
    "tool use": [
        {"role": "system", "content": "Use tools."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": '{"degrees": 21}'},
    ],
    "reasoning": [{"role": "user", "content": "a"}, {"role": "assistant", "reasoning": "hm", "content": "b"}],
}

# Written after the templates of well-known models: loops with state, filters, macros, dates, generation marks.
TEMPLATES = {
    "llama 3 like": """\
{{- bos_token }}
{%- set ns = namespace(first=true) %}
{%- if not date_string is defined %}{% set date_string = strftime_now("%d %b %Y") %}{% endif %}
{%- for message in messages %}
    {%- if ns.first and message['role'] == 'user' %}{{- 'Today: ' + date_string + '\\n' }}
        {%- set ns.first = false %}
    {%- endif %}
    {{- message.reasoning_content }}{{ message.thinking }}
    {{- '<|start|>' + message['role'] + '<|end|>\\n\\n' + (message['content'] or '') | trim + eos_token }}
    {%- if message.tool_calls is defined %}{{- message.tool_calls | tojson(indent=2) }}{% endif %}
{%- endfor %}
{%- if tools is not none %}{{- tools | map(attribute='function') | map(attribute='name') | join(', ') }}{% endif %}
{%- if add_generation_prompt %}{{- '<|start|>assistant<|end|>\\n\\n' }}{% endif %}
""",
    "white space": """\
  {% for message in messages %}
    {% if loop.index0 % 2 == 1 %}
  odd
    {% endif %}
{{ message.role | upper }}: {{ message.content }}
{% endfor %}
{% generation %}
made
{% endgeneration %}
""",
    "loop controls and macros": """\
{%- macro show(value, depth=0) %}{{ ' ' * depth }}{{ value | tojson(sort_keys=true, ensure_ascii=true) }}{% endmacro %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'system' %}{% break %}{% endif %}
    {%- if message.role == 'assistant' %}{% continue %}{% endif %}
    {{- show({'role': message.role, 'content': message.content}, loop.index) }}
{%- endfor %}
{{- dict(a=1).items() | list }}
""",
}


@cache
def oracle(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def assert_equal(folder: Path, messages: list[dict[str, Any]], tools: list[Any] | None, prompt: bool) -> None:
    expected = oracle(folder).apply_chat_template(messages, tools=tools, add_generation_prompt=prompt, tokenize=False)
    rendered = ChatTemplate.from_folder(folder).render(messages, tools=tools, add_generation_prompt=prompt)
    assert rendered == expected and rendered


@pytest.mark.parametrize("tools", [None, [TOOL], [TOOL, TOOL]])
@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("chat", CHATS)
def test_equals_transformers(chat: str, prompt: bool, tools: list[Any] | None, models: Models) -> None:
    assert_equal(models(), CHATS[chat], tools, prompt)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("chat", CHATS)
def test_other_templates_equal_transformers(name: str, chat: str, models: Models, tmp_path: Path) -> None:
    """In tokenizer_config.json, with special tokens as objects, as older folders have them."""
    shutil.copytree(models(), tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").unlink()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["chat_template"] = TEMPLATES[name]
    config["bos_token"] = {"__type": "AddedToken", "content": "<|endoftext|>", "lstrip": False, "rstrip": False,
                           "normalized": False, "single_word": False, "special": True}  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert_equal(tmp_path, CHATS[chat], [TOOL], True)


def test_a_template_for_tools_is_used_with_tools(tmp_path: Path) -> None:
    templates = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "{{ tools | length }}"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    template = ChatTemplate.from_folder(tmp_path)
    assert (template.render(CHATS["one"]), template.render(CHATS["one"], tools=[TOOL])) == ("plain", "1")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates/tool_use.jinja").write_text("file {{ thinking }}")
    (tmp_path / "chat_template.jinja").write_text("default file")
    template = ChatTemplate.from_folder(tmp_path)
    assert template.render(CHATS["one"]) == "default file"
    assert template.render(CHATS["one"], tools=[TOOL], thinking=False) == "file False"


@pytest.mark.parametrize(
    "source, words",
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content.nope.nope }}", "undefined|no attribute"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ messages.append(1) }}", "unsafe|immutable|not safely"),
        ("{{ ''.__class__.__mro__ }}", "unsafe|not safely"),
        ("{% set ns = namespace(_x=1) %}", "_x"),
        ("{% set ns = namespace() %}{% set ns.__class__ = 1 %}", "__class__"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ range(999999999) | list }}", "Range too big"),
    ],
)
def test_templates_that_refuse_or_misbehave(source: str, words: str) -> None:
    with pytest.raises(ChatTemplateError, match=words):
        ChatTemplate({"default": source}).render(CHATS["one"])


@pytest.mark.parametrize("messages, words", [([], "no messages"), (["hi"], "'hi'"), ([{"role": object()}], "object")])
def test_messages_that_are_none(messages: list[Any], words: str) -> None:
    with pytest.raises(ChatTemplateError, match=words):
        ChatTemplate({"default": "{{ messages }}"}).render(messages)


def test_missing_and_broken_templates(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        ChatTemplate.from_folder(tmp_path / "nowhere")
    with pytest.raises(ChatTemplateError, match="no chat template"):
        ChatTemplate.from_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer_config.json"):
        ChatTemplate.from_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": [{"name": "rag", "template": ""}]}')
    with pytest.raises(ChatTemplateError, match="no default"):
        ChatTemplate.from_folder(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(ChatTemplateError, match="broken"):
        ChatTemplate.from_folder(tmp_path)
