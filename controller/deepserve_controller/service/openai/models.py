"""HostedModels: the models that requests may name, as their functions are defined at this moment."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.service.functions import Functions
from deepserve_controller.service.openai.fault import Fault, invalid
from deepserve_controller.service.store import ApiKey

MAX_SHOWN_CHARS = 100
"""Of a name that is no model's."""


class Hosted(NamedTuple):
    name: str
    function_id: str
    spec: FunctionSpec


class HostedModels:
    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._seen_at: dict[str, int] = {}
        """Unix time at which a function was first listed or asked for."""

    def of(self, key: ApiKey) -> dict[str, Hosted]:
        """Those that a key may use, by name; the latest definition of a name counts that a link or an app holds."""
        found = {}
        for function_id, spec in self._functions.specs.items():
            if spec.kind == "model" and spec.model is not None and spec.tokenizer:
                name = spec.model.name
                if self._functions.is_held(function_id) and (not key.models or name in key.models):
                    found[name] = Hosted(name, function_id, spec)
        return found

    def find(self, key: ApiKey, name: str | None) -> Hosted:
        """Raises Fault."""
        if not name:
            raise invalid("you must name a model", "model")
        there = self.of(key)
        if name not in there:
            shown = name if len(name) <= MAX_SHOWN_CHARS else f"{name[:MAX_SHOWN_CHARS]}..."
            known = ", ".join(there) or "none"
            text = f"the model {shown!r} does not exist, or the key may not use it; there is: {known}"
            raise Fault(404, text, param="model", code="model_not_found")
        return there[name]

    def card(self, hosted: Hosted) -> dict[str, Any]:
        """As OpenAI lists a model."""
        if hosted.function_id not in self._seen_at:
            for gone in self._seen_at.keys() - self._functions.specs.keys():
                del self._seen_at[gone]
        created = self._seen_at.setdefault(hosted.function_id, int(time.time()))
        return {"id": hosted.name, "object": "model", "created": created, "owned_by": "deepserve"}
