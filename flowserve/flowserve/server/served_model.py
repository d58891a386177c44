"""ServedModel: what the endpoints need of the model beside its engine: names, tokenizer, template, defaults."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import anyio.to_thread

from ..chat_template import ChatTemplate
from ..generation_config import read_sampling_defaults
from ..tokenizer import Tokenizer
from .api_error import ApiError
from .token_text import TokenText

_LONG_TEXT = 1 << 14
"""Characters from which encoding would hold up the event loop for milliseconds."""


_TEMPLATES_OWN = ("messages", "tools", "documents", "self")
"""What a request's own variables for the template cannot replace."""


class ServedModel:
    def __init__(self, folder: Path, tokenizer: Tokenizer, names: Sequence[str], max_model_len: int) -> None:
        self.folder = folder
        self.names = tuple(names)
        self.tokenizer = tokenizer
        self.max_model_len = max_model_len
        self.created = int(time.time())
        self.sampling_defaults = read_sampling_defaults(folder)
        self._template: ChatTemplate | None = None

    @cached_property
    def token_text(self) -> TokenText:
        """Built on the first use: reading a large vocabulary takes a while, and few requests need it."""
        return TokenText(self.tokenizer)

    def check_name(self, name: str | None) -> str:
        """The name to answer with. Raises ApiError 404 for another model; none at all means this one."""
        if name is None or name == "":
            return self.names[0]
        if name not in self.names:
            text = f"the model {name!r} does not exist; this server has {', '.join(self.names)}"
            raise ApiError(404, text, param="model", code="model_not_found")
        return name

    def render(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, variables: dict[str, Any]
    ) -> str:
        """Raises ChatTemplateError, also where the model has no template: it can still complete prompts."""
        if self._template is None:
            self._template = ChatTemplate.from_folder(self.folder)
        names = {name: value for name, value in variables.items() if name not in _TEMPLATES_OWN}
        return self._template.render(messages, tools=tools, **names)

    async def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        if len(text) < _LONG_TEXT:
            return self.tokenizer.encode(text, add_special_tokens)
        return await anyio.to_thread.run_sync(self.tokenizer.encode, text, add_special_tokens)
