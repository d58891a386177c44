"""Who waits for what, counted as it changes: asked at every line that a pod prints, with ten thousand calls pending."""

from __future__ import annotations

from typing import NamedTuple


class RequestTally:
    """How many unfinished requests each client has, and for which functions."""

    def __init__(self) -> None:
        self._of_function: dict[str, dict[str, int]] = {}

    def began(self, function_id: str, root_link_id: str) -> None:
        links = self._of_function.setdefault(function_id, {})
        links[root_link_id] = links.get(root_link_id, 0) + 1

    def ended(self, function_id: str, root_link_id: str) -> None:
        links = self._of_function[function_id]
        _take_one(links, root_link_id)
        if not links:
            del self._of_function[function_id]

    def has_function(self, function_id: str) -> bool:
        return function_id in self._of_function

    def links_for(self, function_id: str) -> tuple[str, ...]:
        """The clients that wait for it, the one that began first in front."""
        return tuple(self._of_function.get(function_id, ()))


class TaskPlace(NamedTuple):
    request_id: str
    attempt: int
    pod_id: str


class TaskPlaces:
    """Where each task is, found by task and by pod."""

    def __init__(self) -> None:
        self._places: dict[str, TaskPlace] = {}
        self._on_pod: dict[str, dict[str, TaskPlace]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, task_id: str) -> TaskPlace:
        return self._places[task_id]

    def get(self, task_id: str) -> TaskPlace | None:
        return self._places.get(task_id)

    def is_current(self, pod_id: str, task_id: str, attempt: int) -> bool:
        """Answers of an older attempt, or of another pod, count for nothing."""
        place = self._places.get(task_id)
        return place is not None and place.attempt == attempt and place.pod_id == pod_id

    def put(self, task_id: str, place: TaskPlace) -> None:
        """Sent, or sent again elsewhere."""
        self.remove(task_id)
        self._places[task_id] = place
        self._on_pod.setdefault(place.pod_id, {})[task_id] = place

    def remove(self, task_id: str) -> None:
        place = self._places.pop(task_id, None)
        if place is not None:
            on_pod = self._on_pod[place.pod_id]
            del on_pod[task_id]
            if not on_pod:
                del self._on_pod[place.pod_id]

    def of_request(self, request_id: str) -> list[str]:
        """Ids of its tasks that are on pods."""
        return [task_id for task_id, place in self._places.items() if place.request_id == request_id]

    def on_pod(self, pod_id: str) -> list[TaskPlace]:
        return list(self._on_pod.get(pod_id, {}).values())

    def remove_pod(self, pod_id: str) -> None:
        for task_id in self._on_pod.pop(pod_id, {}):
            del self._places[task_id]


def _take_one(counts: dict[str, int], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
