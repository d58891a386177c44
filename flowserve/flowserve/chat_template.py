"""ChatTemplate: messages to the prompt a model was trained on, from its folder. Needs jinja2 alone.

Templates come with models, so they are untrusted code: they run in jinja2's immutable sandbox, and the environment is
the one that templates are written for (that of transformers' apply_chat_template).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.utils
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .errors import ChatTemplateError
from .template_sources import read_templates

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class ChatTemplate:
    """The default template of a model and, where it has one, the template for conversations with tools."""

    def __init__(self, templates: Mapping[str, str], special_tokens: Mapping[str, str] | None = None) -> None:
        """`templates` by name; needs "default", may have "tool_use". Raises ChatTemplateError for bad syntax."""
        if "default" not in templates:
            raise ChatTemplateError(f"no default chat template, only {sorted(templates)}")
        environment = _environment()
        try:
            self._templates = {name: environment.from_string(source) for name, source in templates.items()}
        except jinja2.TemplateError as error:
            raise ChatTemplateError(f"the chat template is broken: {error}") from error
        self._special_tokens = dict(special_tokens or {})

    @classmethod
    def from_folder(cls, folder: str | Path) -> ChatTemplate:
        """See `read_templates`."""
        templates, config = read_templates(folder)
        return cls(templates, _special_tokens(config))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt as text; encode it without adding special tokens.

        tools: JSON schemas as the model sees them.  variables: more names for the template (enable_thinking=False).
        Raises ChatTemplateError with the template's own words where it refuses the messages.
        """
        plain_messages = [_plain_message(message) for message in messages]
        if not plain_messages:
            raise ChatTemplateError("there are no messages")
        template = self._templates["tool_use" if tools and "tool_use" in self._templates else "default"]
        names: dict[str, Any] = {**self._special_tokens, **variables}
        try:
            return template.render(
                messages=plain_messages,
                tools=_plain(list(tools)) if tools else None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **names,
            )
        except jinja2.TemplateError as error:
            raise ChatTemplateError(f"the chat template refuses the messages: {error}") from error
        except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
            raise ChatTemplateError(f"the chat template fails: {type(error).__name__}: {error}") from error


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["namespace"] = _Namespace
    return environment


class _Namespace(jinja2.utils.Namespace):
    """`namespace(...)` that takes no underscored names, through which templates could reach Python's own."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        for name in dict(*args[1:], **kwargs):
            _refuse_underscore(name)
        jinja2.utils.Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


def _refuse_underscore(name: str) -> None:
    if name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace of a chat template cannot have a name like {name!r}")


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's part for training; here it is its content."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: jinja2's own filter sorts keys and escapes for HTML, which models have not seen."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _plain_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """As templates expect messages: without keys that are None, reasoning under both of its names."""
    if not isinstance(message, Mapping):
        raise ChatTemplateError(f"a message must be a dict with role and content, got {message!r}")
    plain: dict[str, Any] = _plain({key: value for key, value in message.items() if value is not None})
    for name in ("reasoning_content", "thinking", "reasoning"):
        if name in plain:
            return {"thinking": plain[name], **plain, "reasoning_content": plain[name]}
    return plain


def _plain(value: Any) -> Any:
    """A copy of JSON types only: an object of any other kind could carry methods that a template must not reach."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise ChatTemplateError(f"messages and tools must be plain JSON data, found a {type(value).__name__}")


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    tokens = {}
    for name in _SPECIAL_TOKENS:
        value = config.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            tokens[name] = text
    return tokens
