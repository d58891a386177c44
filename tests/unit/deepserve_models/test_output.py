"""Output types: the schema that holds the decoder, and the value read back from its text."""

from __future__ import annotations

import enum
import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired, TypedDict

import pytest
from pydantic import BaseModel, Field, field_validator

from deepserve._output import InvalidOutput, OutputType
from deepserve.errors import InvalidOption, OutputTruncated


class Person(BaseModel):
    """Somebody."""

    name: str
    born: int | None = None
    kind: Literal["author", "actor"] = Field("author", description="What for.")

    @field_validator("name")
    @classmethod
    def _capital(cls, name: str) -> str:
        if not name[:1].isupper():
            raise ValueError("names begin with a capital")
        return name


@dataclass
class Line:
    title: str
    amounts: list[float] = field(default_factory=list)


class Point(TypedDict):
    x: int
    lines: NotRequired[list[Line]]


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


ROUND_TRIPS: list[tuple[Any, str, Any]] = [
    (int, "42", 42),
    (float, "1", 1.0),
    (bool, "true", True),
    (str | None, "null", None),
    (list[str], '["a", "b"]', ["a", "b"]),
    (set[int], "[1, 2]", {1, 2}),
    (tuple[int, str], '[1, "a"]', (1, "a")),
    (dict[str, int], '{"a": 1}', {"a": 1}),
    (Literal["yes", "no"], '"no"', "no"),
    (Colour, '"blue"', Colour.BLUE),
    (int | str, '"x"', "x"),
    (Line, '{"title": "t", "amounts": [1, 2.5]}', Line("t", [1.0, 2.5])),
    (Point, '{"x": 1, "lines": [{"title": "t"}]}', {"x": 1, "lines": [Line("t")]}),
    (list[Point], '[{"x": 1}]', [{"x": 1}]),
    (Person, '{"name": "Ada", "born": 1815}', Person(name="Ada", born=1815)),
    (Person | Line, '{"title": "t"}', Line("t")),
]


@pytest.mark.parametrize(("hint", "text", "value"), ROUND_TRIPS, ids=[str(case[0]) for case in ROUND_TRIPS])
def test_round_trip_under_the_grammar(hint: Any, text: str, value: Any) -> None:
    llguidance = pytest.importorskip("llguidance")
    output: OutputType[Any] = OutputType(hint)
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(output.schema))
    assert llguidance.LLMatcher.validate_grammar(grammar) == ""
    assert output.parse(text) == value


def test_schema_is_short_and_closed() -> None:
    assert OutputType[Person](Person).schema == {
        "type": "object",
        "description": "Somebody.",
        "properties": {
            "name": {"type": "string"},
            "born": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
            "kind": {"type": "string", "enum": ["author", "actor"], "default": "author", "description": "What for."},
        },
        "required": ["name"],
        "additionalProperties": False,
    }


def test_cut_off_answer_carries_its_text() -> None:
    for hint, text in ((list[str], '["a", "b'), (int, "12"), (str | None, '"abc')):
        with pytest.raises(OutputTruncated) as caught:
            OutputType[Any](hint).parse(text, "length")
        assert caught.value.text == text


def test_whole_answer_at_the_limit_is_taken() -> None:
    assert OutputType[list[str]](list[str]).parse('["a"]', "length") == ["a"]


def test_answer_that_a_validator_refuses() -> None:
    with pytest.raises(InvalidOutput, match="no Person: name: .*capital") as caught:
        OutputType[Person](Person).parse('{"name": "ada"}')
    assert caught.value.text == '{"name": "ada"}'


def test_type_without_schema() -> None:
    for hint in (object, dict[int, str], Any.__class__):
        with pytest.raises(InvalidOption, match="output_type="):
            OutputType(hint)


def test_plain_types_need_no_pydantic() -> None:
    program = (
        "import sys; from deepserve._tool import tool\n"
        "def f(a: int, b: list[str] | None = None): 'x'\n"
        "tool(f).definition; print('pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
