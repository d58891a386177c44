"""Counts that must agree with what a walk over all requests would say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deepserve_controller.service.request_tally import RequestTally

NAMES = st.sampled_from(["a", "b", "c"])


@given(st.lists(st.tuples(NAMES, NAMES, st.booleans())))
def test_a_tally_says_what_a_walk_would_say(steps: list[tuple[str, str, bool]]) -> None:
    tally, running = RequestTally(), list[tuple[str, str]]()
    for function_id, link_id, begins in steps:
        if begins or (function_id, link_id) not in running:
            running.append((function_id, link_id))
            tally.began(function_id, link_id)
        else:
            running.remove((function_id, link_id))
            tally.ended(function_id, link_id)
        for name in "abc":
            assert tally.has_function(name) == any(function == name for function, _ in running)
            assert set(tally.links_for(name)) == {link for function, link in running if function == name}
