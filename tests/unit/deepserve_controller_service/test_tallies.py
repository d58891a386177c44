"""Counts that must agree with what a walk over all requests and tasks would say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deepserve_controller.service.tallies import RequestTally, TaskPlace, TaskPlaces

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


@given(st.lists(st.tuples(st.sampled_from(["put", "remove", "remove pod"]), NAMES, NAMES)))
def test_places_are_found_by_task_and_by_pod(steps: list[tuple[str, str, str]]) -> None:
    places, known = TaskPlaces(), dict[str, TaskPlace]()
    for attempt, (deed, task_id, pod_id) in enumerate(steps):
        if deed == "put":
            known[task_id] = TaskPlace("rq", attempt, pod_id)
            places.put(task_id, known[task_id])
        elif deed == "remove":
            known.pop(task_id, None)
            places.remove(task_id)
        else:
            known = {task: place for task, place in known.items() if place.pod_id != pod_id}
            places.remove_pod(pod_id)
        for name in "abc":
            assert places.get(name) == known.get(name)
            assert set(places.on_pod(name)) == {place for place in known.values() if place.pod_id == name}
