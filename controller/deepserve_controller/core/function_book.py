"""FunctionBook: the functions that are defined, and which of them a request needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from deepserve.protocol.messages import Outcome, RequestKind
from deepserve.protocol.openai_io import EMBEDDING_METHOD
from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.core.endings import missing_tokenizer_outcome, removed_outcome, unknown_outcome
from deepserve_controller.core.engine_book import EngineBook
from deepserve_controller.core.function_queue import FunctionQueue

NUM_REMOVED = 200


class FirstStep(NamedTuple):
    """Where a request's first task goes, and whose task takes its result."""

    function: FunctionQueue
    then: FunctionQueue | None
    kind: RequestKind


class FunctionBook:
    """A removed function stays known, one of the last NUM_REMOVED, so that a late request hears what happened to it."""

    def __init__(self) -> None:
        self._functions: dict[str, FunctionQueue] = {}
        self._removed: dict[str, None] = {}
        """Ids, the latest last."""

    def __iter__(self) -> Iterator[FunctionQueue]:
        return iter(self._functions.values())

    def define(self, function_id: str, spec: FunctionSpec) -> None:
        function = self._functions.get(function_id)
        if function is None:
            slots = max(1, spec.scaling.max_inputs)
            engines = EngineBook() if spec.kind == "model" else None
            self._functions[function_id] = FunctionQueue(function_id, spec, spec.label, slots, engines=engines)
        else:
            function.is_removed = False
            self._removed.pop(function_id, None)

    def remove(self, function: FunctionQueue) -> None:
        function.is_removed = True
        self._removed[function.function_id] = None
        for function_id in list(self._removed)[:-NUM_REMOVED]:
            if not self._functions[function_id].running:
                del self._functions[function_id], self._removed[function_id]

    def get(self, function_id: str) -> FunctionQueue | None:
        return self._functions.get(function_id)

    def load_of(self, function_id: str) -> tuple[int, int]:
        """Its (queued, running) tasks now; what a draining pod still runs is among them."""
        function = self._functions.get(function_id)
        return (function.demand()[0], function.running) if function else (0, 0)

    def room_of(self, function_id: str) -> tuple[int, int]:
        """(slots of one pod, how many pods are ready)."""
        function = self._functions.get(function_id)
        return (function.slots, len(function.routable)) if function else (0, 0)

    def label(self, function_id: str) -> str:
        function = self._functions.get(function_id)
        return function.label if function else function_id

    def first_step(self, function_id: str, kind: RequestKind, method: str = "") -> FirstStep | Outcome:
        """A model with a tokenizer takes two tasks, everything else one: embeddings too, which are made of texts.

        The outcome `refused` where it cannot run.
        """
        function = self._functions.get(function_id)
        if function is None:
            return unknown_outcome(function_id)
        if function.is_removed:
            return removed_outcome(function.label)
        tokenizer_id = function.spec.tokenizer
        if not tokenizer_id or function.spec.kind != "model" or method in ("embed", EMBEDDING_METHOD):
            return FirstStep(function, None, kind)
        tokenizer = self._functions.get(tokenizer_id)
        if tokenizer is None or tokenizer.is_removed:
            return missing_tokenizer_outcome(function.label, tokenizer_id)
        return FirstStep(tokenizer, function, "call")
