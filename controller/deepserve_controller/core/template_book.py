"""TemplateBook: what templates of functions have taken, how much they were used, and which functions can have none.

It outlives the templates themselves: the decisions about a function's next one are made from it.
"""

from __future__ import annotations

from deepserve_controller.core.memory_views import HeldTemplate
from deepserve_controller.core.popularity import Popularity

NUM_REFUSALS = 500


class TemplateBook:
    """By function id."""

    def __init__(self) -> None:
        self._sizes: dict[str, tuple[int, float]] = {}
        """Memory in MiB and loading time in ms, of functions that had a template."""
        self._popularity = Popularity()
        self._refusals: dict[str, str] = {}
        self._pod_load_ms: dict[str, float] = {}

    def held(self, function_id: str, now_s: float) -> HeldTemplate:
        """What a template of it takes, as was last seen."""
        held_mib, load_ms = self._sizes.get(function_id, (0, 0.0))
        return HeldTemplate(held_mib, self._popularity.of(function_id, now_s), load_ms)

    def learn(self, function_id: str, held: HeldTemplate, at_s: float) -> None:
        """What `held` has told an earlier controller at that time."""
        if held.held_mib or held.load_ms:
            self.loaded(function_id, held.held_mib, held.load_ms)
        self._popularity.learn(function_id, held.uses, at_s)

    def loaded(self, function_id: str, held_mib: int, load_ms: float) -> None:
        """In a template; or in a pod with devices, of what its template would hold."""
        self._sizes[function_id] = held_mib, load_ms

    def was_loaded(self, function_id: str) -> bool:
        return function_id in self._sizes

    def used(self, function_id: str, now_s: float) -> None:
        """By a pod that is forked from its template, or has loaded it beside devices of its own."""
        self._popularity.note(function_id, now_s)

    def loaded_in_pod(self, function_id: str, load_ms: float) -> None:
        self._pod_load_ms[function_id] = load_ms

    def pod_load_ms(self, function_id: str) -> float:
        """What loading it took a pod lately; 0 where none is known."""
        return self._pod_load_ms.get(function_id, 0.0)

    def refused(self, function_id: str, reason: str) -> None:
        self._refusals[function_id] = reason
        while len(self._refusals) > NUM_REFUSALS:
            del self._refusals[next(iter(self._refusals))]

    def refusal(self, function_id: str) -> str:
        """Why it can have no template; empty where it can."""
        return self._refusals.get(function_id, "")

    def forget(self, function_id: str) -> None:
        """The function may be another one when it is heard of again; how much it is used stays."""
        for facts in (self._sizes, self._refusals, self._pod_load_ms):
            facts.pop(function_id, None)
