"""Questions about models: deployed ones, and those that scripts have brought themselves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.service.deployments import Deployments
from deepserve_controller.service.function_queries import FunctionQueries
from deepserve_controller.service.functions import Functions
from deepserve_controller.service.logs import Logs
from deepserve_controller.service.pod_links import PodLinks
from deepserve_controller.service.query_body import Body, required
from deepserve_controller.service.route_log import RouteLog

NUM_ROUTES = 20


class Meant(NamedTuple):
    """A model. app: empty where it is a script's, and not deployed. others: names that are in its app beside it."""

    name: str
    app: str
    function_id: str
    spec: FunctionSpec
    others: list[str] = []


class ModelQueries:
    def __init__(
        self,
        deployments: Deployments,
        known: Functions,
        functions: FunctionQueries,
        pods: PodLinks,
        routes: RouteLog,
        logs: Logs,
    ) -> None:
        self._deployments = deployments
        self._known = known
        self._functions = functions
        self._pods = pods
        self._routes = routes
        self._logs = logs

    def list(self, link_id: str, body: Body) -> Body:
        """All of them, by name; of one name the deployed one first."""
        models = sorted(self._all(), key=lambda meant: (meant.name, not meant.app))
        return {"models": [self._summary(link_id, meant) for meant in models]}

    def find(self, link_id: str, body: Body) -> Body:
        """What a process needs that knows a model by name. Raises QueryError."""
        app, function_id = self._deployments.model(required(body, "name", str))
        return {"app": app.name, "function_id": function_id, "spec": plain(app.specs[function_id])}

    def describe(self, link_id: str, body: Body) -> Body:
        """As `function` does, with the five steps of scaling of each of its executors, in milliseconds, and where the
        latest requests went, and why. Raises QueryError.
        """
        meant = self._meant(required(body, "name", str))
        found = self._summary(link_id, meant)
        described = self._functions.describe(link_id, {"function_id": found["function_id"]})
        pods = [
            {
                **pod,
                "steps_ms": entry.scaling.steps_ms,
                "source": entry.scaling.source,
                "source_reason": entry.scaling.source_reason,
                "pinned_blocks": entry.pinned_blocks,
            }
            for pod in described["pods"]
            if (entry := self._pods.find(pod["pod_id"])) is not None
        ]
        templates = [
            {
                "template_id": each.pod_id,
                "pid": each.pid,
                "state": each.state,
                "reason": each.reason,
                "age_s": time.time() - each.started_at,
                "latest_line": self._logs.latest_line(each.pod_id),
                "steps_ms": each.scaling.steps_ms,
                "source": each.scaling.source,
                "source_reason": each.scaling.source_reason,
            }
            for each in self._pods.templates.values()
            if each.function_id == found["function_id"]
        ]
        routes = [msgspec.to_builtins(route) for route in self._routes.latest(found["function_id"], NUM_ROUTES)]
        found["broken_because"] = described["broken_because"] or self._broken_tokenizer(link_id, meant.spec)
        return {**described, **found, "pods": pods, "templates": templates, "routes": routes}

    def _all(self) -> Sequence[Meant]:
        deployed = [
            Meant(name, app.name, function_id, app.specs[function_id], sorted(set(app.functions) - {name}))
            for name, (app, function_id) in self._deployments.models().items()
        ]
        ids = {each.function_id for each in deployed}
        of_scripts = [
            Meant(spec.model.name, "", function_id, spec)
            for function_id, spec in self._known.specs.items()
            if spec.model is not None and spec.kind == "model"
            if function_id not in ids and self._known.is_held(function_id)
        ]
        return [*deployed, *of_scripts]

    def _meant(self, name: str) -> Meant:
        """The deployed one of that name, else the latest of a script. Raises QueryError(not_found)."""
        named = [each for each in self._all() if each.name == name]
        if not named:
            self._deployments.model(name)
        return named[0] if named[0].app else named[-1]

    def _broken_tokenizer(self, link_id: str, spec: FunctionSpec) -> str:
        """Why no prompt can be read: requests end there, before an engine is started for them."""
        if not spec.tokenizer:
            return ""
        because: str = self._functions.describe(link_id, {"function_id": spec.tokenizer})["broken_because"]
        return because

    def _summary(self, link_id: str, meant: Meant) -> Body:
        described = self._functions.describe(link_id, {"function_id": meant.function_id})
        return {
            "name": meant.name,
            "app": meant.app,
            "function_id": meant.function_id,
            "model": msgspec.to_builtins(meant.spec.model),
            "accelerators": list(meant.spec.resources.accelerators),
            "others_in_app": meant.others,
            **{key: described[key] for key in ("settings", "queued", "running", "ready", "starting", "reason")},
        }


def plain(spec: FunctionSpec) -> Body:
    """As it travels in an answer."""
    described: Body = msgspec.to_builtins(spec, builtin_types=(bytes,))
    return described
