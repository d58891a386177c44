"""Type hints to JSON schema, as short as models like it: no titles, nested types written in place.

Plain hints are written here; pydantic is imported only for what it alone understands (models, dataclasses,
constraints), so that a module that declares a tool over numbers and strings imports in microseconds.
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

Schema = dict[str, Any]

_PLAIN: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
    None: "null",
}
_ARRAYS = (list, set, frozenset, typing.get_origin(typing.Sequence[int]), typing.get_origin(Iterable[int]))
_MAPPINGS = (dict, typing.get_origin(typing.Mapping[str, int]))
_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
"""What a constrained decoder can hold a string to."""


class UnsupportedHint(TypeError):
    """No JSON schema can be written for a type hint."""


class SchemaWriter:
    """Writes the schemas of one document; types that contain themselves are collected in `definitions`.

    closed: objects take no other properties than their own, which a constrained decoder needs to be told.
    """

    def __init__(self, *, closed: bool = False) -> None:
        self.definitions: dict[str, Schema] = {}
        self._closed = closed

    def write(self, hint: Any) -> Schema:
        """The schema of `hint`. Raises UnsupportedHint."""
        if hint is Any:
            return {}
        if isinstance(hint, typing.Hashable) and hint in _PLAIN:
            return {"type": _PLAIN[hint]}
        origin, arguments = get_origin(hint), get_args(hint)
        if origin is Literal:
            return _choice(arguments)
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.write(argument) for argument in arguments]}
        if origin is Annotated and all(isinstance(note, str) for note in arguments[1:]):
            return {**self.write(arguments[0]), "description": arguments[1]}
        if (origin or hint) in _ARRAYS:
            return {"type": "array", **({"items": self.write(arguments[0])} if arguments else {})}
        if (origin or hint) in _MAPPINGS:
            return self._mapping(arguments)
        if origin is tuple:
            return self._tuple(arguments)
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            return _choice([member.value for member in hint])
        if typing.is_typeddict(hint):
            return self._typed_dict(hint)
        return self._by_pydantic(hint)

    def _mapping(self, arguments: tuple[Any, ...]) -> Schema:
        if not arguments:
            return {"type": "object"}
        if arguments[0] is not str:
            raise UnsupportedHint(f"keys of a JSON object are strings, not {arguments[0]!r}")
        return {"type": "object", "additionalProperties": self.write(arguments[1])}

    def _tuple(self, arguments: tuple[Any, ...]) -> Schema:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return {"type": "array", "items": self.write(arguments[0])}
        items = [self.write(argument) for argument in arguments]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items), "maxItems": len(items)}

    def _typed_dict(self, hint: Any) -> Schema:
        fields = typing.get_type_hints(hint, include_extras=True)
        schema: Schema = {"type": "object"}
        if hint.__doc__:
            schema["description"] = " ".join(hint.__doc__.split())
        schema["properties"] = {name: self.write(_without_required(field)) for name, field in fields.items()}
        schema["required"] = [name for name, field in fields.items() if _is_required(hint, name, field)]
        return {**schema, "additionalProperties": False} if self._closed else schema

    def _by_pydantic(self, hint: Any) -> Schema:
        if hint is object or get_origin(hint) is type or isinstance(hint, typing.TypeVar):
            raise UnsupportedHint(f"{_spell(hint)} has no JSON schema")
        from pydantic import TypeAdapter
        from pydantic.errors import PydanticUserError

        try:
            document = TypeAdapter(as_pydantic_takes_it(hint)).json_schema()
        except (PydanticUserError, NameError, TypeError) as error:
            reason = str(error).split("\n", 1)[0]
            raise UnsupportedHint(f"{_spell(hint)} has no JSON schema: {reason}") from None
        return _Document(document, self.definitions, self._closed).root()


class _Document:
    """A schema as pydantic writes it, rewritten in our short form."""

    def __init__(self, document: Schema, definitions: dict[str, Schema], closed: bool) -> None:
        self._document = document
        self._sources: dict[str, Schema] = document.get("$defs", {})
        self._definitions = definitions
        self._closed = closed
        self._open: list[str] = []  # the references that are being written in place just now

    def root(self) -> Schema:
        written: Schema = self._schema({key: value for key, value in self._document.items() if key != "$defs"})
        return written

    def _schema(self, schema: Any) -> Any:
        if not isinstance(schema, dict):  # `items: false`
            return schema
        if "$ref" in schema:
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            return {**self._reference(schema["$ref"].rsplit("/", 1)[-1]), **self._schema(rest)}
        written: Schema = {}
        if "type" in schema:  # first, as people write it
            written["type"] = schema["type"]
        for key, value in schema.items():
            self._keyword(written, key, value)
        if self._closed and "properties" in written and "additionalProperties" not in written:
            written["additionalProperties"] = False
        return written

    def _keyword(self, written: Schema, key: str, value: Any) -> None:
        if key in ("title", "uniqueItems", "discriminator", "type"):
            return
        if key == "format" and value not in _FORMATS:
            return
        if key == "additionalProperties" and value is False and not self._closed:
            return
        if key == "const":
            written["enum"] = [value]
        elif key in ("properties", "patternProperties"):
            written[key] = {name: self._schema(child) for name, child in value.items()}
        elif key in ("items", "additionalProperties"):
            written[key] = self._schema(value)
        elif key in ("anyOf", "allOf", "oneOf", "prefixItems"):
            # A union's members exclude one another here; constrained decoders only know anyOf well.
            written["anyOf" if key == "oneOf" else key] = [self._schema(child) for child in value]
        else:
            written[key] = value

    def _reference(self, name: str) -> Schema:
        if name not in self._open and not self._contains_itself(name):
            self._open.append(name)
            written: Schema = self._schema(self._sources[name])
            self._open.pop()
            return written
        if name not in self._definitions:
            self._definitions[name] = {}  # set first: the type is met again while it is written
            self._definitions[name] = self._schema(self._sources[name])
        return {"$ref": f"#/$defs/{name}"}

    def _contains_itself(self, name: str) -> bool:
        seen: set[str] = set()
        pending = list(_references(self._sources[name]))
        while pending:
            found = pending.pop()
            if found == name:
                return True
            if found not in seen:
                seen.add(found)
                pending.extend(_references(self._sources[found]))
        return False


def _references(schema: Any) -> Iterable[str]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "$ref" and isinstance(value, str):
                yield value.rsplit("/", 1)[-1]
            else:
                yield from _references(value)
    elif isinstance(schema, list):
        for child in schema:
            yield from _references(child)


def schema_of(hint: Any) -> Schema:
    """The schema that constrains a model's output to values of `hint`. Raises UnsupportedHint."""
    writer = SchemaWriter(closed=True)
    schema = writer.write(hint)
    return {**schema, "$defs": writer.definitions} if writer.definitions else schema


def as_pydantic_takes_it(hint: Any) -> Any:
    """`hint` with typing's TypedDicts exchanged: before Python 3.12 pydantic takes only those of typing_extensions."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal or origin is Annotated:
        return hint
    if arguments:
        inner = tuple(as_pydantic_takes_it(argument) for argument in arguments)
        if inner == arguments:
            return hint
        return Union[inner] if origin in (Union, types.UnionType) else origin[inner]  # noqa: UP007
    if typing.is_typeddict(hint) and type(hint).__module__ == "typing":
        return _extended_typed_dict(hint)
    return hint


def _extended_typed_dict(hint: Any) -> Any:
    import typing_extensions

    exchanged: dict[str, Any] = {}
    for name, field in typing.get_type_hints(hint, include_extras=True).items():
        inner = as_pydantic_takes_it(_without_required(field))
        exchanged[name] = inner if _is_required(hint, name, field) else typing_extensions.NotRequired[inner]
    return typing_extensions.TypedDict(hint.__name__, exchanged)  # type: ignore[operator]


def _choice(values: Iterable[Any]) -> Schema:
    values = list(values)
    for value in values:
        if value is not None and not isinstance(value, str | int | float | bool):
            raise UnsupportedHint(f"{value!r} is no JSON value to choose from")
    kinds = {type(value) for value in values}
    return {"type": _PLAIN[kinds.pop()], "enum": values} if len(kinds) == 1 else {"enum": values}


def _is_required(hint: Any, name: str, field: Any) -> bool:
    """Whether a TypedDict must have a field: its own `__required_keys__` misses markers in postponed annotations."""
    marker = get_origin(field)
    if marker in (typing.Required, typing.NotRequired):
        return marker is typing.Required
    return name in hint.__required_keys__


def _without_required(field: Any) -> Any:
    return get_args(field)[0] if get_origin(field) in (typing.Required, typing.NotRequired) else field


def _spell(hint: Any) -> str:
    return getattr(hint, "__qualname__", None) or repr(hint)
