"""Phrases with alternatives: `(How many|Count the) functions` stands for two texts."""

from __future__ import annotations

import random
import re

_CHOICE = re.compile(r"\(([^()]*\|[^()]*)\)")


def pick(phrase: str, rng: random.Random) -> str:
    """Chooses one text of a phrase; innermost alternatives first, an empty alternative leaves no double space."""
    while match := _CHOICE.search(phrase):
        phrase = phrase[: match.start()] + rng.choice(match[1].split("|")) + phrase[match.end() :]
    return re.sub(r"  +", " ", phrase).strip()


def fill(phrase: str, values: list[str]) -> str:
    """Puts the values at `{0}`, `{1}` ...; anything else in braces stays as it is."""
    return re.sub(r"\{(\d)\}", lambda found: values[int(found[1])], phrase)
