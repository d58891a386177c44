"""ServedModel: what the endpoints need of the model beside its engine: names, tokenizer, template, defaults."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..answer import AnswerFormat
from ..errors import PromptTooLongError
from ..generation_config import read_sampling_defaults
from ..template_sources import template_text
from ..tokenizer import Tokenizer
from .model_name import check_name
from .prompts import Prompt
from .token_text import TokenText

if TYPE_CHECKING:
    from ..chat_template import ChatTemplate

_TEMPLATES_OWN = ("messages", "tools", "documents", "self")
"""What a request's own variables for the template cannot replace."""


class ServedModel:
    """call_format, reasoning: how it writes calls and whether it thinks between tags; None = as its template shows."""

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        names: Sequence[str],
        max_model_len: int,
        call_format: str | None = None,
        reasoning: bool | None = None,
    ) -> None:
        """Raises InvalidConfigError for a call format that is not there."""
        self.folder = folder
        self.names = tuple(names)
        self.tokenizer = tokenizer
        self.max_model_len = max_model_len
        self.created = int(time.time())
        self.sampling_defaults = read_sampling_defaults(folder)
        self._own_format: dict[str, Any] = {} if reasoning is None else {"has_reasoning": reasoning}
        if call_format is not None:
            self._own_format["calls"] = AnswerFormat(call_format).calls

    @cached_property
    def token_text(self) -> TokenText:
        """Built on the first use: reading a large vocabulary takes a while, and few requests need it."""
        return TokenText(self.tokenizer)

    @cached_property
    def _template(self) -> ChatTemplate:
        from ..chat_template import ChatTemplate  # jinja2: who serves prompts that others wrote needs it never

        return ChatTemplate.from_folder(self.folder)

    @cached_property
    def answer_format(self) -> AnswerFormat:
        """Raises ChatTemplateError where the model has no template."""
        return replace(AnswerFormat.of_template(template_text(self.folder)), **self._own_format)

    def check_name(self, name: str | None) -> str:
        """The name to answer with. Raises ApiError 404 for another model; none at all means this one."""
        return check_name(name, self.names)

    def render(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, variables: dict[str, Any]
    ) -> str:
        """Raises ChatTemplateError, also where the model has no template: it can still complete prompts."""
        names = {name: value for name, value in variables.items() if name not in _TEMPLATES_OWN}
        return self._template.render(messages, tools=tools, **names)

    def fits(self, prompt: Prompt, max_tokens: int) -> bool:
        """Whether it has no more tokens than so many. Raises TokenizerError."""
        try:
            return len(self.encode(prompt).token_ids or []) <= max_tokens
        except PromptTooLongError:
            return False

    def encode(self, prompt: Prompt, is_bounded: bool = True) -> Prompt:
        """With its token ids. is_bounded: it is to be answered, so that it must fit the context.

        Raises TokenizerError, and PromptTooLongError where the text's length tells; tokens are counted elsewhere. What
        is not bounded may be longer than the context, but no more than is read at a time.
        """
        if prompt.token_ids is not None:
            return prompt
        check = self.tokenizer.check_length if is_bounded else self.tokenizer.check_readable
        check(prompt.text, self.max_model_len)
        token_ids = self.tokenizer.encode(prompt.text, prompt.add_special_tokens)
        return Prompt(prompt.text, prompt.add_special_tokens, token_ids)
