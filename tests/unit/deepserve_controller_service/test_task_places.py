"""Places that must be those that were put last, whichever way they are looked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deepserve_controller.service.task_places import TaskPlace, TaskPlaces

NAMES = st.sampled_from(["a", "b", "c"])


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
