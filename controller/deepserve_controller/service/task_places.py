"""TaskPlaces: where each task is, found by task and by pod."""

from __future__ import annotations

from typing import NamedTuple


class TaskPlace(NamedTuple):
    request_id: str
    attempt: int
    pod_id: str


class TaskPlaces:
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
