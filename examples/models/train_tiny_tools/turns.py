"""One question of a dialogue with its right course: the calls round by round, their results, the answer."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .catalogue import ARITHMETIC, COUNTERS, LIST_FUNCTIONS, LONGEST, TIME, WEATHER
from .catalogue_office import (
    ACTIONS,
    ECHO,
    EMAIL,
    FILE_SIZE,
    INVENTORY,
    LOOKUPS,
    MANAGER,
    MESSAGE,
    PHONE,
    PODS,
    POPULATION,
    PRICE,
    READ_FILE,
    REVERSE,
    SCALE,
    STOCK,
    TRANSLATE,
    WORD_LENGTH,
)
from .kinds import Kind, Outcome, Result, Tool, offer, result_parts, result_text
from .phrases import fill, pick
from .synthetic import synthetic_kind
from .template import Message
from .values import draw, is_heldout

MAX_TOOLS = 5
FAMILIES = (
    COUNTERS,
    (*COUNTERS[:3], *LONGEST, LIST_FUNCTIONS),
    ARITHMETIC,
    (WEATHER, TIME, POPULATION),
    (EMAIL, PHONE, MANAGER, MESSAGE),
    (PRICE, INVENTORY, STOCK),
    (FILE_SIZE, READ_FILE),
    (PODS, SCALE),
    (WORD_LENGTH, REVERSE, TRANSLATE, ECHO),
)
CODE_AND_NUMBERS = (*COUNTERS[:3], LONGEST[0], *ARITHMETIC[:3])
KINDS = (*COUNTERS, *LONGEST, LIST_FUNCTIONS, *ARITHMETIC, WEATHER, TIME, *LOOKUPS, *ACTIONS)
# Small integers and true/false say nothing alone, but an answer must still hold them.
_NO_FACT = {
    "ok",
    "done",
    "sent",
    "saved",
    "set",
    "paid",
    "delivered",
    "success",
    "finished",
    "true",
    "null",
    "scaled",
    "scaling",
}


class DoesNotFit(Exception):
    """The tools that a turn needs collide with what the dialogue already offers."""


@dataclass(frozen=True)
class Call:
    tool: Tool
    values: list[str]
    result: Result
    said: str
    compact: bool = False

    @property
    def content(self) -> str:
        return result_text(self.result, self.compact)

    def request(self) -> dict[str, Any]:
        return {"name": self.tool.name, "arguments": self.tool.arguments(self.values)}


@dataclass(frozen=True)
class Turn:
    category: str
    question: str
    rounds: list[list[Call]]
    answer: str
    facts: tuple[str, ...]

    def messages(self) -> list[Message]:
        written: list[Message] = [{"role": "user", "content": self.question}]
        for number, calls in enumerate(self.rounds):
            ids = [f"call_{number}_{index}" for index in range(len(calls))]
            asked = [{"type": "function", "id": i, "function": c.request()} for i, c in zip(ids, calls, strict=True)]
            written.append({"role": "assistant", "content": "", "tool_calls": asked})
            written += [
                {"role": "tool", "content": c.content, "tool_call_id": i} for i, c in zip(ids, calls, strict=True)
            ]
        return [*written, {"role": "assistant", "content": self.answer}]


@dataclass
class Bench:
    """What one dialogue offers so far; turns ask it for the tools they need."""

    rng: random.Random
    heldout: bool
    tools: list[Tool] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)  # groups that some turn needs to be absent

    def need(self, kind: Kind) -> Tool:
        """The offered tool of this kind, or a new one."""
        for tool in self.tools:
            if tool.kind.group == kind.group:
                return tool
        if kind.group in self.refused or len(self.tools) >= MAX_TOOLS:
            raise DoesNotFit
        tool = offer(kind, self.rng)
        if any(tool.name == other.name for other in self.tools):
            raise DoesNotFit
        self.tools.append(tool)
        return tool

    def has(self, group: str) -> bool:
        return any(tool.kind.group == group for tool in self.tools)

    def refuse(self, group: str) -> None:
        if self.has(group):
            raise DoesNotFit
        self.refused.add(group)

    def kind(self, synthetic: float = 0.2) -> Kind:
        """Any kind, an invented one with the given chance; code and numbers come up more often than the rest."""
        if self.rng.random() < synthetic:
            return synthetic_kind(self.rng, self.heldout)
        return self.rng.choice(CODE_AND_NUMBERS if self.rng.random() < 0.35 else KINDS)

    def sibling(self) -> Kind:
        """A kind much like one that is offered or asked for in vain: the telling apart is what is to be learnt."""
        groups = {tool.kind.group for tool in self.tools} | self.refused
        families = [f for f in FAMILIES if any(kind.group in groups for kind in f)]
        return self.rng.choice(self.rng.choice(families)) if families else self.kind()

    def values(self, kind: Kind) -> list[str]:
        return [draw(parameter.source, self.rng, self.heldout) for parameter in kind.parameters]

    def wording(self, options: Sequence[str]) -> str:
        """A way to put a question; one in eight, by its checksum, is only ever used in held-out dialogues."""
        for _ in range(40):
            text = pick(self.rng.choice(options), self.rng)
            if is_heldout("phrase " + text) == self.heldout:
                return text
        raise DoesNotFit

    def phrase(self, options: Sequence[str]) -> str:
        return self.roughen(self.wording(options))

    def ask(self, kind: Kind) -> str:
        """A question for a tool."""
        return self.phrase((*kind.asks, *kind.rare_asks))

    def roughen(self, phrase: str) -> str:
        """People forget capitals and question marks."""
        if phrase[0].isalpha() and self.rng.random() < 0.1:
            phrase = phrase[0].lower() + phrase[1:]
        if phrase.endswith("?") and self.rng.random() < 0.07:
            phrase = phrase[:-1]
        return phrase

    def call(self, tool: Tool, values: list[str], outcome: Outcome | None = None) -> Call:
        outcome = outcome or self.rng.choice(tool.kind.outcomes)
        result = outcome.make(self.rng, values)
        return Call(tool, values, result, say(outcome.say, values, result), self.rng.random() < 0.3)


def say(phrase: str, values: list[str], result: Result) -> str:
    """The sentence that reports a result."""
    # Arguments and results are put in at once, so that braces inside one are never filled by the other.
    parts = result_parts(result)
    if isinstance(result, dict):
        parts["details"] = ", ".join(f"{key} {result_text(value)}" for key, value in result.items())
    return re.sub(r"\{([\w.]+)\}", lambda m: values[int(m[1])] if m[1].isdigit() else parts[m[1]], phrase)


def facts_of(calls: list[Call]) -> tuple[str, ...]:
    """What an answer about these calls must hold: every piece of the results."""
    found: list[str] = []
    for call in calls:
        items = call.result.values() if isinstance(call.result, dict) else call.result
        for item in items if isinstance(items, list) or isinstance(call.result, dict) else [call.result]:
            text = result_text(item).rstrip(".")
            found += [] if text in _NO_FACT else [text]
    return tuple(found)


def single(bench: Bench, tool: Tool | None = None) -> Turn:
    """One tool, one call."""
    tool = tool or bench.need(bench.kind())
    values = bench.values(tool.kind)
    call = bench.call(tool, values)
    category = "invented tool" if tool.kind.group.startswith("synthetic") else "one call"
    return Turn(category, fill(bench.ask(tool.kind), values), [[call]], call.said, facts_of([call]))


def another(bench: Bench, before: Turn) -> Turn:
    """`And csv?` after a question about json."""
    call = before.rounds[-1][-1] if before.rounds else None
    if call is None or len(call.values) != 1 or before.category not in ("one call", "invented tool", "follow-up"):
        raise DoesNotFit
    values = bench.values(call.tool.kind)
    phrase = bench.phrase(
        (
            "(And|and|Now|now) (|what about |for |with |about ){0}(?|.|)",
            "(What|And what|How) about {0}?",
            "(The same|The same again|Again|Once more) for {0}(.|, please.)",
        )
    )
    new = bench.call(call.tool, values)
    return Turn("follow-up", fill(phrase, values), [[new]], new.said, facts_of([new]))


_ERRORS = (
    "ModuleNotFoundError: No module named '{0}'",
    "KeyError: '{0}'",
    "ValueError: unknown name {0}",
    "TimeoutError: no answer after {1} seconds",
    "LookupError: {0} was not found",
    "ConnectionError: the server is down",
    "PermissionError: not allowed",
    "TypeError: {0} is not supported",
    "RuntimeError: code {1}",
    "FileNotFoundError: [Errno 2] No such file or directory: '{0}'",
    "ToolError: {2}",
)


def failing(bench: Bench) -> Turn:
    """The tool raises; the answer says so and gives the reason."""
    tool = bench.need(bench.kind())
    values = bench.values(tool.kind)
    subject = values[0] if values else "it"
    reason = fill(
        bench.rng.choice(_ERRORS), [subject, str(bench.rng.randrange(2, 600)), draw("task", bench.rng, bench.heldout)]
    )
    call = Call(tool, values, bench.rng.choice(("error: ", "error: ", "Error: ")) + reason, "")
    return Turn("error", fill(bench.ask(tool.kind), values), [[call]], f"The tool failed: {reason}", (reason,))


def as_json(bench: Bench) -> Turn:
    """The answer is wanted as a JSON object with given keys."""
    kind = bench.rng.choice((*COUNTERS, *ARITHMETIC, *LOOKUPS)) if bench.rng.random() < 0.8 else bench.kind(1.0)
    tool = bench.need(kind)
    kind = tool.kind
    values = bench.values(kind)
    call = bench.call(tool, values)
    if isinstance(call.result, dict) or len(values) > 1:
        raise DoesNotFit
    first = bench.rng.choice((kind.parameters[0].key, kind.parameters[0].key, "answer"))
    second = bench.rng.choice((kind.result_key, kind.result_key, "value", "result"))
    given: Any = tool.arguments(values)[tool.parameters[0]]
    body = {first: call.said if first == "answer" else given, second: call.result}
    keys = f"keys {first} and {second}"
    if bench.rng.random() < 0.25:
        body, keys = {second: call.result}, f"key {second}"
    phrase = bench.phrase(
        (
            "(Answer|Reply|Respond|I want it) (as|in) JSON with the {k}(.|)",
            "(Return|Give) (|a )JSON (|object )with the {k}(.|)",
        )
    )
    question = fill(bench.ask(kind), values)
    if len(body) < 2 and first == second:
        raise DoesNotFit
    return Turn(
        "json",
        f"{question} {phrase.replace('{k}', keys)}",
        [[call]],
        json.dumps(body, ensure_ascii=False),
        facts_of([call]),
    )


def parallel(bench: Bench) -> Turn:
    """Two independent calls in one round: one tool for two things, or two tools."""
    one = bench.need(bench.kind())
    if len(one.kind.parameters) == 1 and bench.rng.random() < 0.65:
        values = bench.values(one.kind), bench.values(one.kind)
        if values[0] == values[1] or one.kind.group == "roll":
            raise DoesNotFit
        phrase = bench.ask(one.kind).replace("{0}", "{0} and {1}").replace(" does ", " do ")
        question = fill(phrase, [values[0][0], values[1][0]])
        calls = [bench.call(one, values[0]), bench.call(one, values[1])]
    else:
        two = bench.need(bench.kind())
        if one is two:
            raise DoesNotFit
        values = bench.values(one.kind), bench.values(two.kind)
        if (
            one.kind.parameters
            and two.kind.parameters
            and one.kind.parameters[0].source == two.kind.parameters[0].source
            and bench.rng.random() < 0.6
        ):
            values[1][0] = values[0][0]
        first, phrase = fill(bench.ask(one.kind), values[0]), bench.ask(two.kind)
        glue = bench.rng.choice((" And ", " and ", " Also: ", " "))
        if glue == " and ":
            phrase = phrase[0].lower() + phrase[1:]
        question = first + glue + fill(phrase, values[1])
        calls = [bench.call(one, values[0]), bench.call(two, values[1])]
    return Turn("parallel calls", question, [calls], " ".join(c.said for c in calls), facts_of(calls))
