"""A kind of tool: what it may be called, how people ask for it, what it gives back and how that is said."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .phrases import pick

Result = Any
MakeResult = Callable[[random.Random, list[str]], Result]


@dataclass(frozen=True)
class Parameter:
    """One parameter: possible names, where its values come from, its JSON type, possible descriptions."""

    names: str
    source: str
    type: str = "string"
    descriptions: str = ""
    key: str = ""  # a short name for JSON answers


@dataclass(frozen=True)
class Outcome:
    """A form that the result may take, and the sentence that reports it."""

    make: MakeResult
    say: str


@dataclass(frozen=True)
class Kind:
    """Phrases use `{0}`, `{1}` for the arguments; `say` also `{r}` for the result or `{r.key}` for a part of it."""

    names: str
    descriptions: str
    parameters: tuple[Parameter, ...]
    asks: tuple[str, ...]
    rare_asks: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    group: str = ""  # kinds of one group could stand in for each other, so they are not offered together
    noun: str = ""  # what is counted or looked up, for questions about two things
    result_key: str = "result"
    rare_names: str = ""


@dataclass(frozen=True)
class Tool:
    """A kind with its names chosen: what one dialogue offers."""

    kind: Kind
    name: str
    parameters: tuple[str, ...]
    schema: dict[str, Any]

    def arguments(self, values: list[str]) -> dict[str, Any]:
        """The arguments of a call, in the order of the schema."""
        typed = zip(self.parameters, self.kind.parameters, values, strict=True)
        return {name: value if p.type == "string" else json.loads(value) for name, p, value in typed}


def result_text(result: Result, compact: bool = False) -> str:
    """A tool's result as the model reads it: text as it is, anything else as JSON."""
    if isinstance(result, str):
        return result
    return json.dumps(result, ensure_ascii=False, separators=(",", ":") if compact else None)


def result_parts(result: Result) -> dict[str, str]:
    """The values by which a `say` phrase names a result."""
    if isinstance(result, dict):
        return {f"r.{key}": result_text(value) for key, value in result.items()}
    if isinstance(result, list):
        return {"r": join_words([result_text(item) for item in result])}
    return {"r": result_text(result).rstrip(".")}


def join_words(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def offer(kind: Kind, rng: random.Random) -> Tool:
    """Chooses the names and descriptions of a tool and writes its schema as the agent would."""
    name = rng.choice([n for n in f"{kind.names}|{kind.rare_names}".split("|") if n])
    described = rng.random() < 0.75
    parameters: dict[str, dict[str, str]] = {}
    for parameter in kind.parameters:
        choices = [n for n in parameter.names.split("|") if n not in parameters]
        # The first name is the plain one, and real tools mostly use it.
        chosen = choices[0] if rng.random() < 0.65 else rng.choice(choices)
        entry = {"type": parameter.type}
        if described and parameter.descriptions:
            entry["description"] = pick(f"({parameter.descriptions})", rng)
        parameters[chosen] = entry
    body: dict[str, Any] = {"type": "object", "properties": parameters, "required": list(parameters)}
    if rng.random() < 0.05:
        body["additionalProperties"] = False
    description = "" if rng.random() < 0.03 else pick(f"({kind.descriptions})", rng)
    function = {"name": name, "description": description, "parameters": body}
    return Tool(kind, name, tuple(parameters), {"type": "function", "function": function})
