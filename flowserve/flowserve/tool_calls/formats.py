"""Which format a model writes its calls in: by name, as vLLM has them, or by what its chat template shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from .events import AnswerEvent
from .hermes import HermesCalls
from .llama import LlamaCalls
from .mistral import MistralCalls
from .pythonic import PythonicCalls


class CallParser(Protocol):
    """Reads one answer. The events do not depend on where the text was cut; nothing of it is lost but white space
    around calls: what begins like a call and is none is a MalformedCall."""

    def feed(self, text: str) -> list[AnswerEvent]:
        """The events that became certain."""

    def finish(self) -> list[AnswerEvent]:
        """The text is over: what waited is decided."""


@dataclass(frozen=True, slots=True)
class CallFormat:
    """special_tokens: its marks are special tokens, so they must be left in the text (`skip_special_tokens=False`)."""

    make: Callable[[], CallParser]
    signs: tuple[str, ...]
    special_tokens: bool = False


FORMATS: dict[str, CallFormat] = {
    "hermes": CallFormat(HermesCalls, ("<tool_call>",)),
    "mistral": CallFormat(MistralCalls, ("[TOOL_CALLS]",), special_tokens=True),
    "pythonic": CallFormat(PythonicCalls, ("[func_name1(params_name1=",)),
    "llama3_json": CallFormat(LlamaCalls, ("<|python_tag|>", '"parameters"'), special_tokens=True),
}
"""In the order in which a template is searched for their signs."""


def make_parser(name: str) -> CallParser:
    """Raises KeyError for a format that is not there."""
    return FORMATS[name].make()


def format_of_template(source: str) -> str | None:
    """The format whose signs a chat template holds; None where it shows none."""
    return next((name for name, form in FORMATS.items() if any(sign in source for sign in form.signs)), None)
