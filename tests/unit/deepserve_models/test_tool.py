"""What a model is told about a function, and how its arguments are checked."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional

import pytest

from deepserve._tool import InvalidArguments, Tool, as_tool, tool
from deepserve.errors import InvalidOption, ToolError


@tool
def add(a: int, b: int) -> int:
    """Add two whole numbers.

    Args:
        a: First number.
        b: Second number.
    """
    return a + b


@dataclass
class Address:
    street: str
    number: int = 1


@dataclass
class Tree:
    name: str
    children: list[Tree]


@tool(name="send_parcel", description="Send it.")
def send(to: Address, how: Literal["air", "sea"] = "sea", weight: Optional[float] = None) -> str:  # noqa: UP045
    """Ignored first paragraph.

    Args:
        to (Address): Who gets it,
            and where.
        how: By which way.

    Returns:
        weight: not a parameter's description.
    """
    return f"{to.street} {to.number} {how} {weight}"


@tool
def early(later: Later) -> str:
    """Uses a type that the module defines further down."""
    return later.text


@dataclass
class Later:
    text: str


def test_definition_as_documented() -> None:
    assert json.dumps(add.definition) == (
        '{"type": "function", "function": {"name": "add", "description": "Add two whole numbers.", "parameters": '
        '{"type": "object", "properties": {"a": {"type": "integer", "description": "First number."}, '
        '"b": {"type": "integer", "description": "Second number."}}, "required": ["a", "b"]}}}'
    )


def test_nested_choices_and_defaults() -> None:
    function = send.definition["function"]
    assert (function["name"], function["description"]) == ("send_parcel", "Send it.")
    assert json.dumps(function["parameters"]) == json.dumps(
        {
            "type": "object",
            "properties": {
                "to": {
                    "type": "object",
                    "description": "Who gets it, and where.",
                    "properties": {"street": {"type": "string"}, "number": {"type": "integer", "default": 1}},
                    "required": ["street"],
                },
                "how": {
                    "type": "string",
                    "description": "By which way.",
                    "enum": ["air", "sea"],
                    "default": "sea",
                },
                "weight": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
            },
            "required": ["to"],
        }
    )


def test_pydantic_model_as_parameter() -> None:
    from pydantic import BaseModel, Field

    class Person(BaseModel):
        title: str = Field(description="Dr or none.")
        age: int = Field(ge=0)

    def greet(person: Person) -> str:
        return person.title

    greet.__annotations__["person"] = Person  # a local class cannot be found by its name
    described = Tool(greet)
    assert described.definition["function"]["parameters"]["properties"]["person"] == {
        "type": "object",
        "properties": {
            "title": {"type": "string", "description": "Dr or none."},
            "age": {"type": "integer", "minimum": 0},
        },
        "required": ["title", "age"],
    }
    assert described.checked_arguments({"person": {"title": "Dr", "age": "7"}}) == {"person": Person(title="Dr", age=7)}
    with pytest.raises(InvalidArguments, match="greet: argument 'person.age'.*greater than or equal to 0"):
        described.checked_arguments({"person": {"title": "Dr", "age": -1}})


def test_type_that_contains_itself() -> None:
    def plant(tree: Tree) -> None: ...

    parameters = Tool(plant).definition["function"]["parameters"]
    assert parameters["properties"] == {"tree": {"$ref": "#/$defs/Tree"}}
    assert parameters["$defs"]["Tree"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Tree"}


def test_hint_defined_later_is_read_at_first_use() -> None:
    assert early.definition["function"]["parameters"]["required"] == ["later"]
    assert early(**early.checked_arguments({"later": {"text": "x"}})) == "x"


def test_annotated_description() -> None:
    def f(city: Annotated[str, "Which city"]) -> None: ...

    assert Tool(f).definition["function"]["parameters"]["properties"]["city"]["description"] == "Which city"


def test_tool_is_still_the_function() -> None:
    assert add(2, b=3) == 5
    assert add.__name__ == "add"
    assert as_tool(add) is add


def test_arguments_are_converted_and_checked() -> None:
    assert add.checked_arguments({"a": "2", "b": 3.0}) == {"a": 2, "b": 3}
    assert send.checked_arguments({"to": {"street": "x"}}) == {"to": Address("x")}
    for arguments, problem in (
        ({"a": 1}, "add: argument 'b' is missing .it takes: a, b."),
        ({"a": 1, "b": 2, "c": 3}, "add: unknown argument 'c'"),
        ({"a": "x", "b": 2}, "add: argument 'a': Input should be a valid integer"),
    ):
        with pytest.raises(InvalidArguments, match=problem):
            add.checked_arguments(arguments)


def test_what_cannot_be_a_tool_names_the_parameter() -> None:
    def any_object(x: object) -> None: ...
    def no_hint(x) -> None: ...  # type: ignore[no-untyped-def]
    def many(*xs: int) -> None: ...
    def positional(x: int, /) -> None: ...
    def keyed(x: dict[int, str]) -> None: ...

    for function in (any_object, no_hint, many, positional, keyed):
        with pytest.raises(ToolError, match=f"parameter 'xs?' of tool '{function.__name__}'"):
            tool(function)

    def generator() -> Any:
        yield 1

    for wrong in (generator, lambda: 1, "text"):
        with pytest.raises(ToolError):
            as_tool(wrong)


def test_approvals_are_refused_and_not_ignored() -> None:
    with pytest.raises(InvalidOption, match="approvals come with durable workflows"):

        @tool(needs_approval=lambda args: True)
        def pay(amount: float) -> str:
            return ""


def test_pickles_by_the_name_in_its_module() -> None:
    assert pickle.loads(pickle.dumps(add)) is add


def test_local_tool_travels_whole() -> None:
    import cloudpickle

    factor = 3

    @tool
    def times(x: int) -> int:
        """Multiply."""
        return x * factor

    copy = pickle.loads(cloudpickle.dumps(times))
    assert copy(2) == 6
    assert copy.definition == times.definition
