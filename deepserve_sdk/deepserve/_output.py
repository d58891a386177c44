"""The type that a model's answer is asked in: its schema for the decoder, and the way back from text."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Generic, TypeVar

from deepserve._output_schema import Schema, UnsupportedHint, as_pydantic_takes_it, schema_of
from deepserve.errors import InvalidOption, ModelError, OutputTruncated

T = TypeVar("T")


class InvalidOutput(ModelError):
    """The model's answer is no value of the asked type. text: the answer as the model wrote it."""

    def __init__(self, message: str = "", *, text: str = "") -> None:
        super().__init__(message)
        self.text = text


class OutputType(Generic[T]):
    """What `output_type=` names: a pydantic model, dataclass, TypedDict, `list[str]`, Literal, Enum, union or number.

    The decoder is held to `schema`, and nothing is added to the prompt: a small model is easily led astray by a schema
    in its prompt, and a large one needs none to fill in named fields. Describe the fields in the types
    (`Field(description=...)`) for readers, and in the prompt where the model must know more than their names.

    Raises InvalidOption if values of `hint` cannot be written as JSON.
    """

    def __init__(self, hint: Any) -> None:
        self.hint = hint
        try:
            self.schema: Schema = schema_of(hint)
        except UnsupportedHint as error:
            raise InvalidOption(f"output_type={_spell(hint)}: {error}") from None

    def __reduce__(self) -> Any:  # what it reads answers with cannot be pickled, and is made again in no time
        return OutputType, (self.hint,)

    def parse(self, text: str, finish_reason: str = "stop") -> T:
        """The value that `text` spells.

        Raises OutputTruncated if the answer ended at `max_tokens` (finish_reason `length`) before it was whole, and
        InvalidOutput if it is whole but no value of the type (a constraint that a grammar cannot hold, such as a
        pydantic validator). Both carry the text.
        """
        from pydantic import ValidationError

        if finish_reason == "length" and not text.rstrip().endswith(("}", "]", '"')):
            # 12 may be the beginning of 123: what has no closing mark cannot be known to be whole.
            raise self._truncated(text)
        try:
            value: T = self._adapter.validate_json(text)
        except ValidationError as error:
            if finish_reason == "length":
                raise self._truncated(text) from None
            raise InvalidOutput(f"the answer is no {_spell(self.hint)}: {_first_problem(error)}", text=text) from None
        return value

    def accepts(self, text: str) -> bool:
        """`text` spells a value of the type as it is."""
        try:
            self.parse(text)
        except InvalidOutput:
            return False
        return True

    @cached_property
    def _adapter(self) -> Any:
        from pydantic import TypeAdapter

        return TypeAdapter(as_pydantic_takes_it(self.hint))

    def _truncated(self, text: str) -> OutputTruncated:
        shown = text if len(text) <= 80 else f"...{text[-80:]}"
        whole = f"a whole {_spell(self.hint)}"
        return OutputTruncated(f"the answer was cut off before it was {whole}: raise max_tokens ({shown!r})", text=text)


def _first_problem(error: Any) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def _spell(hint: Any) -> str:
    return hint.__qualname__ if isinstance(hint, type) else str(hint).replace("typing.", "")
