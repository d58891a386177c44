"""Stop strings: found wherever text is cut, as a plain search would find them, thousands at the cost of one."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from flowserve.sequence_text import SequenceText
from flowserve.stop_strings import StopStrings, stop_strings


class Letters:
    """A detokenizer whose tokens are pieces of a text."""

    def __init__(self, pieces: list[str], last: str = "") -> None:
        self.pieces = pieces
        self.last = last

    def push(self, token_id: int) -> str:
        return self.pieces[token_id]

    def flush(self) -> str:
        return self.last


def run(pieces: list[str], stops: list[str], last: str = "", **options: object) -> tuple[str, int | None]:
    """(the text shown, the token that ended it)."""
    text, shown = SequenceText(Letters(pieces, last), StopStrings(stops), **options), ""  # type: ignore[arg-type]
    for token_id in range(len(pieces)):
        stopped = text.push(token_id)
        shown += text.take()
        if stopped:
            return shown, token_id
    text.finish()
    return shown + text.take(), None


def expected(text: str, stops: list[str], include: bool) -> str:
    """The stop string complete first ends the text; of several complete at once the longest."""
    for end in range(1, len(text) + 1):
        if found := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end if include else end - max(map(len, found))]
    return text


@settings(max_examples=1000, derandomize=True, deadline=None)
@given(
    text=st.text("abc", max_size=40),
    stops=st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=5),
    cuts=st.lists(st.integers(0, 40), max_size=12),
    include=st.booleans(),
)
def test_as_a_plain_search_would_find_them(text: str, stops: list[str], cuts: list[int], include: bool) -> None:
    edges = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[start:end] for start, end in zip(edges, edges[1:], strict=False)]
    shown, _ = run(pieces, stops, include_stop=include)
    assert shown == expected(text, stops, include)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(text=st.text("ab", max_size=30), stops=st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=4))
def test_no_more_is_held_back_than_may_become_a_stop_string(text: str, stops: list[str]) -> None:
    sequence_text, shown = SequenceText(Letters(list(text)), StopStrings(stops)), ""
    for count in range(len(text)):
        if sequence_text.push(count):
            return
        shown += sequence_text.take()
        held = text[len(shown) : count + 1]
        assert not held or any(stop.startswith(held) for stop in stops)


def test_the_end_of_a_text_is_searched_too() -> None:
    assert run(["a", "b"], ["b\ufffd"], last="\ufffd") == ("a", None)
    assert run(["a", "b"], ["bx"], last="") == ("ab", None)


def test_stop_strings_before_min_tokens_do_not_count() -> None:
    assert run(["x", "END", "y", "E", "ND", "z"], ["END"], min_tokens=3) == ("xENDy", 4)
    assert run(["x", "END"], ["END"], min_tokens=2) == ("x", 1)


def test_many_strings_share_one_automaton() -> None:
    stops = tuple(f"stop number {number};" for number in range(5000))
    automaton = stop_strings(stops)
    assert stop_strings(stops) is automaton
    assert run(["say sto", "p number 4", "999", "; and on"], list(stops)) == ("say ", 3)
    state, num_read, length = automaton.advance(0, "stop number 12; x")
    assert (num_read, length) == (15, 15)
    assert automaton.cannot_begin("xyz") and not automaton.cannot_begin("xsz")


def test_overlapping_strings_follow_their_fallbacks() -> None:
    automaton = StopStrings(["he", "she", "his", "hers"])
    assert automaton.advance(0, "ushers")[1:] == (4, 3)  # "she" is complete with "he", and longer
    state, _, _ = automaton.advance(0, "shi")
    assert automaton.depths[state] == 2, "hi may become his"
