"""Who holds stored values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepserve_controller.core.ref_book import NEVER_S, RefBook


@pytest.fixture
def book() -> RefBook:
    return RefBook()


def test_a_ref_ends_with_its_last_holder(book: RefBook) -> None:
    book.store("r-1", "script", 100)
    book.hold(["r-1"], "pod-1")
    assert book.release({"r-1": 1}, "script") == []
    assert book.release({"r-1": 1}, "script") == [], "it has none any more"
    assert book.total_bytes == 100
    assert book.release({"r-1": 1}, "pod-1") == ["r-1"]
    assert len(book) == 0
    book.check_invariants()


def test_each_gift_has_to_be_let_go(book: RefBook) -> None:
    book.store("r-1", "script", 1)
    book.hold(["r-1"], "script")  # a result brought it back
    assert book.release({"r-1": 1}, "script") == []
    assert book.release({"r-1": 1}, "script") == ["r-1"]


def test_a_running_request_and_a_kept_result_carry_it(book: RefBook) -> None:
    book.store("r-1", "script", 1)
    book.carry(["r-1"], "rq-1")
    assert book.link_closed("script") == []
    book.carry(["r-1"], "kept rq-1")
    assert book.drop("rq-1") == []
    assert book.drop("rq-2") == []
    assert book.drop("kept rq-1") == ["r-1"]


def test_what_is_deleted_or_over_time_ends_whoever_holds_it(book: RefBook) -> None:
    book.store("r-1", "script", 1, until_s=5.0)
    book.store("r-2", "script", 1, until_s=7.0)
    book.store("r-3", "script", 1)
    book.carry(["r-1", "r-2"], "rq-1")
    assert book.next_end_s == 5.0
    assert book.expire(6.0) == ["r-1"] and book.next_end_s == 7.0
    assert book.delete("r-2") == ["r-2"] and book.delete("r-2") == []
    assert book.next_end_s == NEVER_S and "r-3" in book
    assert book.drop("rq-1") == []
    book.check_invariants()


def test_a_stored_value_carries_the_refs_inside_it(book: RefBook) -> None:
    book.store("r-1", "script", 1)
    book.store("r-2", "script", 1, inner=["r-1"])
    book.store("r-3", "script", 1, inner=["r-2", "r-unknown"])
    assert book.release({"r-1": 1, "r-2": 1}, "script") == []
    book.check_invariants()
    assert book.delete("r-3") == ["r-3", "r-2", "r-1"]


def test_names_that_are_not_known_count_for_nothing(book: RefBook) -> None:
    book.hold(["r-1"], "script")
    book.carry(["r-1"], "rq-1")
    assert book.release({"r-1": 1}, "script") == book.drop("rq-1") == book.link_closed("script") == []
    book.check_invariants()


NAMES = st.sampled_from(["r-1", "r-2", "r-3"])
WHO = st.sampled_from(["a", "b"])
STEPS = st.one_of(
    st.tuples(st.just("store"), NAMES, WHO, st.lists(NAMES, max_size=2)),
    st.tuples(st.just("hold"), NAMES, WHO),
    st.tuples(st.just("carry"), NAMES, WHO),
    st.tuples(st.just("release"), NAMES, WHO),
    st.tuples(st.just("drop"), WHO),
    st.tuples(st.just("close"), WHO),
    st.tuples(st.just("delete"), NAMES),
)


@given(st.lists(STEPS, max_size=40))
def test_every_ref_ends_once_and_none_without_cause(steps: list[tuple[object, ...]]) -> None:
    book = RefBook()
    living: set[str] = set()
    for kind, *rest in steps:
        gone: list[str] = []
        match kind, rest:
            case "store", [str(name), str(who), list(inner)]:
                book.store(name, who, 1, inner=[other for other in inner if other in living])
                living.add(name)
            case "hold", [str(name), str(who)]:
                book.hold([name], who)
            case "carry", [str(name), str(who)]:
                book.carry([name], who)
            case "release", [str(name), str(who)]:
                gone = book.release({name: 1}, who)
            case "drop", [str(who)]:
                gone = book.drop(who)
            case "close", [str(who)]:
                gone = book.link_closed(who)
            case "delete", [str(name)]:
                gone = book.delete(name)
        assert len(gone) == len(set(gone)) and living.issuperset(gone)
        living -= set(gone)
        assert len(book) == len(living) and all(name in book for name in living)
        book.check_invariants()
