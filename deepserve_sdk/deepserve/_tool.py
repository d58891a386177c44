"""A Python function that a model may call: its JSON description, and the check of what the model passes."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from functools import cached_property, update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar, overload

from deepserve._entry import Entry
from deepserve._output_schema import Schema, SchemaWriter, UnsupportedHint, as_pydantic_takes_it
from deepserve._pickling import look_up
from deepserve._tool_docstring import description_of, parameter_descriptions
from deepserve.errors import InvalidOption, ToolError

P = ParamSpec("P")
R = TypeVar("R")

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class InvalidArguments(ValueError):
    """What a model passed to a tool does not fit the tool's parameters; the text is meant for the model."""


class Tool(Generic[P, R]):
    """A function with the description that models are given; calling it calls the function, here.

    Made by `deepserve.tool`. name, description: as the model reads them. definition: OpenAI's JSON form, which
    `llm.chat(tools=[...])` takes too. remote_function: the `@deepserve.function` whose pods run it under an agent,
    None where it runs in the process of the agent's loop.

    An agent of your own, without `deepserve.Agent`, calls the tools of a chat's result itself:

        result = llm.chat(messages, tools=[add])
        for call in result.tool_calls:
            answer = add(**add.checked_arguments(call.arguments))
    """

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str | None = None,
        description: str | None = None,
        remote_function: Any = None,
    ) -> None:
        update_wrapper(self, function)
        self.function = function
        self.name = name or function.__name__
        self.description = description_of(function) if description is None else description
        self.remote_function = remote_function
        self._signature = inspect.signature(function)
        self._check()
        try:
            self._describe()
        except NameError:  # a hint names what the module defines further down: read at first use
            pass

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<deepserve.Tool {self.name}>"

    def __reduce__(self) -> Any:
        # Its module's name for it finds it again in a pod: the function alone could not be pickled, because its own
        # name leads to the tool.
        name: str = vars(self).get("__qualname__", "")
        return name if look_up(self.__module__, name) is self else self.__deepserve_reduce__()

    def __deepserve_reduce__(self) -> Any:
        """As `__reduce__`, where the module does not exist on the other side."""
        return _rebuild, (self.function, self.name, self.description, self.remote_function)

    @cached_property
    def definition(self) -> dict[str, Any]:
        """`{"type": "function", "function": {"name", "description", "parameters"}}`. Raises ToolError."""
        function = {"name": self.name, "description": self.description, "parameters": self._describe()}
        return {"type": "function", "function": function}

    def checked_arguments(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """`arguments` of a model's call, converted to the types of the hints (a dict to a dataclass, "3" to 3).

        Raises InvalidArguments, whose text tells the model what to mend.
        """
        from pydantic import ValidationError

        known = self._signature.parameters
        unknown = [name for name in arguments if name not in known]
        missing = [n for n, p in known.items() if p.default is p.empty and n not in arguments]
        if unknown or missing:
            problems = [f"unknown argument {name!r}" for name in unknown]
            problems += [f"argument {name!r} is missing" for name in missing]
            raise InvalidArguments(f"{self.name}: {', '.join(problems)} (it takes: {', '.join(known) or 'none'})")
        checked: dict[str, Any] = {}
        for name, value in arguments.items():
            try:
                checked[name] = self._adapters[name].validate_python(value)
            except ValidationError as error:
                problem = error.errors(include_url=False)[0]
                where = "".join(f".{part}" for part in problem["loc"])
                raise InvalidArguments(f"{self.name}: argument {name + where!r}: {problem['msg']}") from None
        return checked

    @cached_property
    def _hints(self) -> dict[str, Any]:
        return typing.get_type_hints(self.function, include_extras=True)

    @cached_property
    def _adapters(self) -> dict[str, Any]:
        from pydantic import TypeAdapter

        return {name: TypeAdapter(as_pydantic_takes_it(self._hints[name])) for name in self._signature.parameters}

    def _check(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ToolError(f"{self.name!r} cannot be a tool's name (letters, digits, _ and -): give tool(name=...)")
        if inspect.isgeneratorfunction(self.function) or inspect.isasyncgenfunction(self.function):
            raise ToolError(f"tool {self.name!r} is a generator; a tool returns its result")
        for name, parameter in self._signature.parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise ToolError(f"parameter {name!r} of tool {self.name!r}: a model passes arguments by name")
            if parameter.annotation is parameter.empty:
                raise ToolError(f"parameter {name!r} of tool {self.name!r} has no type hint")

    def _describe(self) -> Schema:
        """The schema of the parameters. Raises ToolError, or NameError for a hint that is not defined yet."""
        writer = SchemaWriter()
        texts = parameter_descriptions(self.function)
        properties, required = {}, []
        for name, parameter in self._signature.parameters.items():
            try:
                written = writer.write(self._hints[name])
            except UnsupportedHint as error:
                raise ToolError(f"parameter {name!r} of tool {self.name!r}: {error}") from None
            properties[name] = _with_description(written, texts.get(name, ""))
            if parameter.default is parameter.empty:
                required.append(name)
            elif parameter.default is None or isinstance(parameter.default, str | int | float | bool):
                properties[name]["default"] = parameter.default
        schema: Schema = {"type": "object", "properties": properties, "required": required}
        return {**schema, "$defs": writer.definitions} if writer.definitions else schema


def _with_description(schema: Schema, text: str) -> Schema:
    """Type and description first: what a model reads before the details."""
    head = {"type": schema["type"]} if "type" in schema else {}
    if text or "description" in schema:
        head["description"] = text or schema["description"]
    return {**head, **{key: value for key, value in schema.items() if key not in head}}


def _rebuild(function: Callable[..., Any], name: str, description: str, remote_function: Any) -> Tool[..., Any]:
    return Tool(function, name=name, description=description, remote_function=remote_function)


@overload
def tool(function: Callable[P, R], /) -> Tool[P, R]: ...


@overload
def tool(
    *, name: str | None = None, description: str | None = None, needs_approval: object = False
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    needs_approval: object = False,
) -> Any:
    """Lets a model call a function: `@deepserve.tool`, or `@deepserve.tool(name=..., description=...)`.

    The JSON schema comes from the type hints, the description from the docstring's first paragraph, those of the
    parameters from its `Args:` section (Google's style). A class, method or `@deepserve.function` is described the
    same way; the latter runs in its own pods when an agent calls it. An exception that the tool raises is told to
    the model, which may try again.

    Raises ToolError, naming the parameter, for what has no JSON schema. `needs_approval` is not available yet:
    approvals come with durable workflows, and asking for one raises InvalidOption.
    """

    def decorate(target: Callable[..., Any]) -> Tool[..., Any]:
        if needs_approval is not False:
            label = getattr(target, "__name__", "tool")
            raise InvalidOption(
                f"tool {label!r}: needs_approval= is not available yet; approvals come with durable workflows"
            )
        described = as_tool(target)
        if name is None and description is None:
            return described
        return Tool(
            described.function,
            name=name or described.name,
            description=description if description is not None else described.description,
            remote_function=described.remote_function,
        )

    return decorate if function is None else decorate(function)


def as_tool(target: Any) -> Tool[..., Any]:
    """The Tool for a tool, a `@deepserve.function` or a plain function. Raises ToolError for anything else."""
    if isinstance(target, Tool):
        return target
    if not callable(target):
        raise ToolError(f"{target!r} is no tool: give a function, a @deepserve.tool or a @deepserve.function")
    entry = getattr(target, "__deepserve_entry__", None)
    if isinstance(entry, Entry) and hasattr(target, "spawn"):
        return Tool(entry.target, remote_function=target)
    return Tool(target)
