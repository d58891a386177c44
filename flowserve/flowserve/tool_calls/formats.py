"""Which format a model writes its calls in: by name, as vLLM has them, or by what its chat template shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from .events import AnswerEvent
from .hermes import HERMES_WRITING, HermesCalls
from .llama import LLAMA_WRITING, LlamaCalls
from .mistral import LIST_WRITING, NAMED_WRITING, MistralCalls
from .pythonic import PYTHONIC_WRITING, PythonicCalls
from .writing import CallWriting, TokenId


class CallParser(Protocol):
    """Reads one answer. The events do not depend on where the text was cut; nothing of it is lost but white space
    around calls: what begins like a call and is none is a MalformedCall."""

    def feed(self, text: str) -> list[AnswerEvent]:
        """The events that became certain."""

    def finish(self) -> list[AnswerEvent]:
        """The text is over: what waited is decided."""


@dataclass(frozen=True, slots=True)
class CallFormat:
    """signs: what a chat template shows of it.  writings: how calls are written, the first that the tokenizer can.

    special_tokens: its marks are special tokens, so they must be left in the text (`skip_special_tokens=False`).
    """

    make: Callable[[], CallParser]
    signs: tuple[str, ...]
    writings: tuple[CallWriting, ...]
    special_tokens: bool = False

    def writing(self, token_id: TokenId) -> CallWriting:
        """For the model whose tokenizer this is."""
        return next(each for each in self.writings if each.needs is None or token_id(each.needs) is not None)


FORMATS: dict[str, CallFormat] = {
    "hermes": CallFormat(HermesCalls, ("<tool_call>",), (HERMES_WRITING,)),
    "mistral": CallFormat(MistralCalls, ("[TOOL_CALLS]",), (NAMED_WRITING, LIST_WRITING), special_tokens=True),
    "pythonic": CallFormat(PythonicCalls, ("[func_name1(params_name1=",), (PYTHONIC_WRITING,)),
    "llama3_json": CallFormat(LlamaCalls, ("<|python_tag|>", '"parameters"'), (LLAMA_WRITING,), special_tokens=True),
}
"""In the order in which a template is searched for their signs."""


def make_parser(name: str) -> CallParser:
    """Raises KeyError for a format that is not there."""
    return FORMATS[name].make()


def format_of_template(source: str) -> str | None:
    """The format whose signs a chat template holds; None where it shows none."""
    return next((name for name, form in FORMATS.items() if any(sign in source for sign in form.signs)), None)
