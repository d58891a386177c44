"""What the model knows by heart: small talk and a few dozen facts about DeepServe, read from facts.txt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fact:
    """Questions (phrases with alternatives) and their one answer; `marks` are words that a right answer must hold."""

    asks: tuple[str, ...]
    answer: str
    marks: tuple[str, ...]


def read_facts(text: str) -> tuple[Fact, ...]:
    """Blocks of `? question` lines, one `! answer` and the answer's marks after `=`, with a blank line between "
    "blocks."""
    facts = []
    for block in text.strip().split("\n\n"):
        lines = [(line[0], line[2:]) for line in block.splitlines()]
        asks = tuple(rest for sign, rest in lines if sign == "?")
        answer, marks = (next(rest for sign, rest in lines if sign == wanted) for wanted in "!=")
        facts.append(Fact(asks, answer, tuple(marks.split(","))))
    return tuple(facts)


FACTS = read_facts((Path(__file__).parent / "facts.txt").read_text(encoding="utf-8"))
