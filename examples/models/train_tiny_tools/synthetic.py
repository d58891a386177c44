"""Tools that nobody has: invented names and purposes, so that the model must read the schema and cannot know it "
"by heart."""

from __future__ import annotations

import random

from .catalogue import PREFIX, choice, number, value
from .kinds import Kind, Outcome, Parameter, Result
from .values import NOUNS, VERBS, invent, is_heldout

_SOURCES = ("word", "word", "identifier", "code", "person", "path", "city", "integer", "integer", "invented")


def _draw(words: list[str], rng: random.Random, heldout: bool) -> str:
    """Held-out dialogues use nouns and verbs that no training dialogue makes a tool of."""
    while True:
        chosen = rng.choice(words) if rng.random() < 0.93 else invent(rng)
        if is_heldout("tool " + chosen) == heldout:
            return chosen


def _details(rng: random.Random, values: list[str]) -> Result:
    keys = rng.sample([noun for noun in NOUNS if "_" not in noun], 2)
    return {key: rng.choice((number(), value("word")))(rng, values) for key in dict.fromkeys(keys)}


def _result(rng: random.Random, subject: str) -> Outcome:
    chance = rng.random()
    if chance < 0.4:
        return Outcome(number(), f"The {subject} is {{r}}.")
    if chance < 0.75:
        return Outcome(
            value(rng.choice(("word", "identifier", "decimal", "clock", "date"))), f"The {subject} is {{r}}."
        )
    return Outcome(_details, f"The {subject}: {{details}}.")


def lookup_kind(rng: random.Random, heldout: bool) -> Kind:
    """`What is the depth of lamp 17?` with a tool that tells a lamp's depth."""
    noun, owner = _draw(NOUNS, rng, heldout), _draw(NOUNS, rng, heldout)
    while owner == noun:
        owner = _draw(NOUNS, rng, heldout)
    source = rng.choice(_SOURCES)
    number_type = "integer" if source == "integer" else "string"
    subject = f"{noun} of {owner} {{0}}" if rng.random() < 0.6 else f"{noun} of {{0}}"
    names = "|".join(
        (
            f"get_{noun}|get_{noun}|{noun}_of|{noun}|{owner}_{noun}|find_{noun}|{noun}_of_{owner}|lookup_{noun}",
            f"{noun}_for_{owner}|{noun}_by_{owner}|get_{owner}_{noun}",
        )
    )
    return Kind(
        names,
        f"The {noun} of a {owner}.|Get the {noun} of a {owner}.|Returns the {noun}|Look up the {noun} of a "
        f"{owner}|Tells the {noun}.",
        (
            Parameter(
                f"{owner}|{owner}_name|{owner}_id|name|id|key",
                source,
                number_type,
                f"The {owner}.|Which {owner}|Name of the {owner}",
                owner,
            ),
        ),
        (
            f"What is the {subject}?",
            f"(Tell|Show|Give) me the {subject}(.|)",
            f"{PREFIX}(find|get|look up) the {subject}(.|?)",
            f"I need the {subject}.",
        ),
        (f"Do you know the {subject}?",),
        (_result(rng, subject),),
        group=f"synthetic {noun} {owner}",
        noun=noun,
        result_key=noun,
    )


def action_kind(rng: random.Random, heldout: bool) -> Kind:
    """`Polish the wall zorp with color blue.` with a tool that polishes walls."""
    verb, noun, detail = _draw(VERBS, rng, heldout), _draw(NOUNS, rng, heldout), _draw(NOUNS, rng, heldout)
    source, other = rng.choice(_SOURCES), rng.choice(_SOURCES)
    parameters = [
        Parameter(
            f"{noun}|{noun}_name|{noun}_id|name|id|target",
            source,
            "integer" if source == "integer" else "string",
            f"The {noun}.|Which {noun}",
            noun,
        )
    ]
    asked = f"{verb} the {noun} {{0}}"
    done = f"{noun} {{0}}"
    if rng.random() < 0.6 and detail != noun:
        parameters.append(
            Parameter(
                f"{detail}|{detail}_value|new_{detail}",
                other,
                "integer" if other == "integer" else "string",
                f"The {detail}.|Its {detail}",
                detail,
            )
        )
        asked += f" with {detail} {{1}}"
    names = f"{verb}_{noun}|{verb}|{verb}_{noun}|do_{verb}|{noun}_{verb}"
    capital = verb.capitalize()
    return Kind(
        names,
        f"{capital} a {noun}.|{capital} the {noun}|Lets you {verb} a {noun}.|Used to {verb} a {noun}.",
        tuple(parameters),
        (
            f"(Please|Can you|Could you|Now) {asked}(.|?)",
            f"{capital}{asked[len(verb) :]}(.|)",
            f"{asked}",
            f"I want you to {asked}.",
        ),
        (f"Go and {asked}.",),
        (
            Outcome(choice("ok|done|success|finished|true|null"), f"Done: {verb} {done}."),
            Outcome(number(), f"Done: {verb} {done}. The result is {{r}}."),
            Outcome(value("word"), f"Done: {verb} {done}. The result is {{r}}."),
        ),
        group=f"synthetic {verb} {noun}",
        result_key="result",
    )


def synthetic_kind(rng: random.Random, heldout: bool) -> Kind:
    return (lookup_kind if rng.random() < 0.55 else action_kind)(rng, heldout)
