"""Whole dialogues: instructions, the tools on offer, one to three questions with their right course. Seeded."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from .chains import CHAINS
from .facts import FACTS
from .phrases import fill, pick
from .template import Message
from .turns import MAX_TOOLS, Bench, DoesNotFit, Turn, another, as_json, failing, parallel, single
from .values import draw

NO_TOOL = "I have no tool for that."
INSTRUCTIONS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "Answer the question.",
    "You answer questions with tools.",
    "(Use|use) the tools to answer(.|)",
    "(Answer|answer) questions about (Python|Python modules|Python's standard library)(.|)( Use the tools.|)",
    "You answer questions about Python's standard library by calling tools.",
    "You know Python's standard library. Use the tools.",
    "You are (a clerk|an assistant|a librarian|a guide|an agent|tiny-tools). (Be short.|Be brief.|Use the tools.|"
    "Answer briefly.)",
    "You (pay invoices|count things|look things up|help with code|help the office|run pods).",
    "Be short(.|) Use tools when (you need them|they help).",
    "You are an agent with tools. Never guess.",
    "Call tools when needed, then answer in one sentence.",
    "Help the user(.|)",
    "You are DeepServe's assistant.",
    "Count with the tools; do not guess.",
    "Use the tools, then answer in one short sentence.",
)
HELDOUT_INSTRUCTIONS = (
    "You are a careful helper who works with tools.",
    "Please assist with questions on code and numbers.",
    "Keep it brief.",
)
UNKNOWN = (
    "Who won the (match|game|race) (yesterday|today)?",
    "What did I (eat|do|buy) (yesterday|today)?",
    "Where are my (keys|shoes|friends)?",
    "(Book|book) me a (flight|table|hotel)(.|)",
    "What is the (best|nicest) (film|book|song)?",
    "(Draw|Paint) me a (picture|house)(.|)",
    "(Play|Stop) the music(.|)",
    "(Open|Close) the (door|window)(.|)",
    "How old is {0}?",
    "Who is {0}?",
    "Where is {0}?",
    "What is {0}?",
    "What does {0} think of {1}?",
    "Is {0} better than {1}?",
    "(Drive|Fly) me to {1}(.|)",
    "What will happen tomorrow?",
    "(Order|Cook|Bring) me a (pizza|soup|coffee)(.|)",
    "How do I get from {0} to {1}?",
    "When was {0} born?",
    "What is in my (fridge|bag|box)?",
    "(Buy|Sell) (a ticket|my car|flowers)(.|)",
    "Which team does {0} play for?",
    "When does the (train|bus|shop) (leave|open)?",
)


@dataclass(frozen=True)
class Dialogue:
    instructions: str
    tools: list[dict[str, Any]]
    turns: list[Turn]

    @property
    def opening(self) -> list[Message]:
        return [{"role": "system", "content": self.instructions}] if self.instructions else []

    def messages(self) -> list[Message]:
        return self.opening + [message for turn in self.turns for message in turn.messages()]


def no_tool(bench: Bench) -> Turn:
    """A question that no offered tool answers."""
    if bench.rng.random() < 0.3:
        phrase = bench.phrase(UNKNOWN)
        question = fill(
            phrase,
            [
                draw(bench.rng.choice(("person", "word")), bench.rng, bench.heldout),
                draw("city", bench.rng, bench.heldout),
            ],
        )
    else:
        kind = bench.kind()
        bench.refuse(kind.group)
        question = fill(bench.ask(kind), bench.values(kind))
    return Turn("no tool fits", question, [], NO_TOOL, ("no tool",))


def chat(bench: Bench) -> Turn:
    """Small talk or a fact; the tools on offer do not matter."""
    while True:
        fact = bench.rng.choice(FACTS)
        try:
            question = bench.phrase(fact.asks)
            break
        except DoesNotFit:  # a fact may have no held-out phrase
            continue
    return Turn("small talk", question, [], fact.answer, fact.marks)


def chained(bench: Bench) -> Turn:
    return bench.rng.choice(CHAINS)(bench)


# How often each sort of turn begins a dialogue.
MIX = ((single, 38), (parallel, 14), (chained, 13), (no_tool, 15), (failing, 5), (as_json, 4), (chat, 11))
CHAT_ALONE = 0.06  # of all dialogues: no tools, no instructions or some


def _turn(bench: Bench, turns: list[Turn], easy: bool) -> Turn:
    makers, weights = zip(*(MIX[:1] if easy else MIX), strict=True)
    for _ in range(20):
        kept = (list(bench.tools), set(bench.refused))
        try:
            if turns and bench.rng.random() < 0.15:
                return another(bench, turns[-1])
            if turns and bench.tools and bench.rng.random() < 0.45:
                return single(bench, bench.rng.choice(bench.tools))
            return bench.rng.choices(makers, weights)[0](bench)
        except DoesNotFit:
            bench.tools, bench.refused = kept
    return chat(bench)


def _instructions(rng: random.Random, heldout: bool) -> str:
    if rng.random() < 0.35:
        return ""
    chosen = pick(rng.choice(HELDOUT_INSTRUCTIONS if heldout and rng.random() < 0.3 else INSTRUCTIONS), rng)
    # Any further text may stand in instructions and must not disturb.
    return f"{chosen} {rng.choice(FACTS).answer}" if rng.random() < 0.08 else chosen


def dialogue(seed: str, *, heldout: bool, turns: int | None = None, tools: int = MAX_TOOLS) -> Dialogue:
    """The dialogue of a seed. `turns` and `tools` bound its size; one tool and one turn make the easiest."""
    rng = random.Random(f"{'heldout' if heldout else 'train'} {seed}")
    bench = Bench(rng, heldout)
    if turns != 1 and rng.random() < CHAT_ALONE:
        alone = [chat(bench) if rng.random() < 0.9 else no_tool(bench) for _ in range(rng.choice((1, 1, 2)))]
        return Dialogue(_instructions(rng, heldout), [], alone)
    wanted = turns or rng.choice((1, 2, 2, 3))
    made: list[Turn] = []
    for _ in range(wanted):
        made.append(_turn(bench, made, easy=tools == 1))
    _fill_up(bench, rng.randrange(1, tools + 1))
    rng.shuffle(bench.tools)
    return Dialogue(_instructions(rng, heldout), [tool.schema for tool in bench.tools], made)


def _fill_up(bench: Bench, count: int) -> None:
    """Adds tools that nobody needs here."""
    for _ in range(3 * count):
        if len(bench.tools) >= count:
            return
        kind = bench.sibling() if bench.rng.random() < 0.4 else bench.kind()
        if bench.has(kind.group):
            continue
        try:
            bench.need(kind)
        except DoesNotFit:
            continue
