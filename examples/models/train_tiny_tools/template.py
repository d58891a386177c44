"""Writes a dialogue as the text the model reads, in pieces, so that training knows which text is the model's own.

`chat_template.jinja` in the model's folder says the same in Jinja; a test holds the two together.
"""

from __future__ import annotations

import json
from typing import Any

Message = dict[str, Any]

CHAT_TEMPLATE = """\
{%- set lead = messages[0].content if messages and messages[0].role == 'system' else '' %}
{%- if lead or tools %}
{{- '<|im_start|>system\\n' + lead }}
{%- if tools %}
{{- '\\n\\n' if lead else '' }}
{{- '# Tools\\n<tools>\\n' }}
{%- for tool in tools %}
{{- (tool | tojson) + '\\n' }}
{%- endfor %}
{{- '</tools>\\nCall a tool: <tool_call>{"name": ..., "arguments": {...}}</tool_call>' }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- set content = message.content if message.content is string
    else (message.content or []) | map(attribute='text') | join %}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' + content }}
{%- for call in message.tool_calls or [] %}
{%- if not loop.first or content %}{{- '\\n' }}{%- endif %}
{%- set function = call.function if call.function is defined else call %}
{%- set arguments = function.arguments if function.arguments is string else function.arguments | tojson %}
{{- '<tool_call>\\n{"name": "' + function.name + '", "arguments": ' + arguments + '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{%- if loop.first or loop.previtem.role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
{{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
{%- if loop.last or loop.nextitem.role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


def tool_call_text(name: str, arguments: Any) -> str:
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": "{name}", "arguments": {written}}}\n</tool_call>'


def assistant_text(message: Message) -> str:
    """What an assistant message looks like when the model writes it."""
    calls = [tool_call_text(c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls") or []]
    return "\n".join([part for part in (message.get("content"), *calls) if part])


def _system_text(lead: str, tools: list[dict[str, Any]]) -> str:
    if not tools:
        return lead
    listed = "".join(json.dumps(tool, ensure_ascii=False) + "\n" for tool in tools)
    head = lead + "\n\n" if lead else ""
    how = 'Call a tool: <tool_call>{"name": ..., "arguments": {...}}</tool_call>'
    return f"{head}# Tools\n<tools>\n{listed}</tools>\n{how}"


def pieces(messages: list[Message], tools: list[dict[str, Any]]) -> list[tuple[str, bool]]:
    """The dialogue as (text, is the model's own) in order; the model also writes the <|im_end|> of its turns."""
    lead = messages[0]["content"] if messages and messages[0]["role"] == "system" else ""
    parts: list[tuple[str, bool]] = []
    if lead or tools:
        parts.append((f"<|im_start|>system\n{_system_text(lead, tools)}<|im_end|>\n", False))
    for index, message in enumerate(messages):
        role = message["role"]
        if role == "assistant":
            parts += [("<|im_start|>assistant\n", False), (assistant_text(message) + "<|im_end|>", True), ("\n", False)]
        elif role == "tool":
            opens = index == 0 or messages[index - 1]["role"] != "tool"
            closes = index + 1 == len(messages) or messages[index + 1]["role"] != "tool"
            text = f"\n<tool_response>\n{message['content']}\n</tool_response>"
            parts.append((("<|im_start|>user" if opens else "") + text + ("<|im_end|>\n" if closes else ""), False))
        elif role == "user" or index > 0:
            parts.append((f"<|im_start|>{role}\n{message['content']}<|im_end|>\n", False))
    return parts


def prompt(messages: list[Message], tools: list[dict[str, Any]]) -> str:
    """The text that the model continues with its next turn."""
    return "".join(text for text, _ in pieces(messages, tools)) + "<|im_start|>assistant\n"
