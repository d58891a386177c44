"""RequestTally: who waits for what, counted as it changes: asked at every line that a pod prints, with ten thousand
calls pending."""

from __future__ import annotations


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


def _take_one(counts: dict[str, int], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
