"""The dialogues: the same for the same seed, split cleanly, and written as the chat template writes them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import suppress

import pytest

from examples.models.train_tiny_tools.catalogue import COUNTERS
from examples.models.train_tiny_tools.dialogues import Dialogue, dialogue
from examples.models.train_tiny_tools.phrases import fill, pick
from examples.models.train_tiny_tools.template import pieces
from examples.models.train_tiny_tools.turns import Bench, DoesNotFit, Turn
from examples.models.train_tiny_tools.values import SOURCES, draw, is_heldout


def many(heldout: bool, count: int = 400) -> list[Dialogue]:
    return [dialogue(f"test {number}", heldout=heldout) for number in range(count)]


def turns(heldout: bool) -> Iterator[Turn]:
    for made in many(heldout):
        yield from made.turns


def text(made: Dialogue) -> str:
    return "".join(piece for piece, _ in pieces(made.messages(), made.tools))


def test_same_seed_same_dialogue() -> None:
    assert [text(made) for made in many(False, 50)] == [text(made) for made in many(False, 50)]
    assert text(dialogue("a", heldout=False)) != text(dialogue("b", heldout=False))


def test_splits_share_no_dialogue_and_no_open_argument() -> None:
    assert not {text(made) for made in many(False)} & {text(made) for made in many(True)}
    closed = {"currency", "unit", "language", "letter", "clock", "date"}
    for heldout in (False, True):
        for turn in turns(heldout):
            for call in turn.rounds[0] if turn.rounds else []:
                for parameter, value in zip(call.tool.kind.parameters, call.values, strict=True):
                    assert parameter.source in closed or is_heldout(value) == heldout


def test_training_never_puts_a_question_in_a_heldout_way() -> None:
    def heard(heldout: bool) -> set[str]:
        bench, found = Bench(random.Random(1), heldout), set()
        for kind in COUNTERS * 60:
            with suppress(DoesNotFit):  # all wordings of this kind are of the other split
                found.add(bench.wording((*kind.asks, *kind.rare_asks)))
        return found

    assert heard(True) and not heard(True) & heard(False)


@pytest.mark.parametrize("kind", sorted(SOURCES))
def test_every_source_can_be_drawn_from(kind: str) -> None:
    for heldout in (False, True):
        assert draw(kind, random.Random(1), heldout)


def test_every_called_tool_is_offered_with_exactly_its_arguments() -> None:
    for made in many(True):
        offered = {tool["function"]["name"]: tool["function"]["parameters"]["required"] for tool in made.tools}
        assert len(offered) == len(made.tools)
        for turn in made.turns:
            for call in (call for calls in turn.rounds for call in calls):
                assert list(call.request()["arguments"]) == offered[call.tool.name]


def test_answers_hold_their_facts() -> None:
    for turn in turns(True):
        answer = turn.answer.lower()
        assert all(json.dumps(fact)[1:-1].lower() in answer or fact.lower() in answer for fact in turn.facts), turn


def test_every_sort_of_question_comes_up() -> None:
    found = {turn.category for turn in turns(False)}
    wanted = {"one call", "invented tool", "parallel calls", "chained calls", "follow-up", "no tool fits", "error"}
    assert found == wanted | {"json", "small talk"}


def test_phrases() -> None:
    texts = {pick("(How many|Count (the|all)) things (|now)?", random.Random(seed)) for seed in range(60)}
    assert texts == {f"{a} things{b}?" for a in ("How many", "Count the", "Count all") for b in (" ", " now")}
    assert fill("{1} and {0}, {r}", ["a", "{0}"]) == "{0} and a, {r}"
