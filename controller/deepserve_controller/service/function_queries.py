"""Questions and orders about one function's pods: how many there are and why, and how many there may be."""

from __future__ import annotations

import time

import msgspec

from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.core.scaling_views import ScalingDecision
from deepserve_controller.core.status_views import FunctionView
from deepserve_controller.errors import QueryError
from deepserve_controller.service.deployments import Deployments
from deepserve_controller.service.functions import Functions
from deepserve_controller.service.loop import CoreLoop
from deepserve_controller.service.query_body import Body, optional, required


class FunctionQueries:
    def __init__(self, cores: CoreLoop, functions: Functions, deployments: Deployments) -> None:
        self._cores = cores
        self._functions = functions
        self._deployments = deployments

    def describe(self, link_id: str, body: Body) -> Body:
        """Its options, its pods now, and the last decisions about them with their reasons; of a model also what another
        start is likely to take, as far as that is known. Raises QueryError."""
        function_id, spec = self._meant(body)
        view = self._view(function_id)
        queued, running = self._cores.cores.job_executor.load_of(function_id)
        manager = self._cores.cores.cluster_manager
        pods = [pod for pod in manager.pods_view() if pod.function_id == function_id]
        startup = manager.startup_view(function_id, time.monotonic())
        return {
            **describe_spec(spec),
            "function_id": function_id,
            "settings": settings_of(view),
            "queued": queued,
            "running": running,
            "pods_wanted": view.pods_wanted,
            "ready": view.ready,
            "starting": view.starting,
            "draining": view.draining,
            "reason": view.reason,
            "reason_age_s": time.monotonic() - view.decided_s,
            "pod_source": view.pod_source,
            "broken_because": view.broken_because,
            "memory": manager.memory_need(function_id)._asdict(),
            "startup": startup._asdict() if startup is not None else None,
            "pod_s": manager.pod_s(function_id, time.monotonic()),
            "pods": [msgspec.to_builtins(pod) for pod in pods],
            "decisions": [self._describe_decision(decision) for decision in manager.scaling_history(function_id)],
        }

    def scale(self, link_id: str, body: Body) -> Body:
        """New bounds; those not given stay. Returns all of them. Raises QueryError."""
        function_id, spec = self._meant(body)
        before = settings_of(self._view(function_id))
        asked = {name: optional(body, name, int, before[name]) for name in ("min_pods", "max_pods", "buffer_pods")}
        window_s = optional(body, "scaledown_window_s", (int, float), before["scaledown_window_s"])
        least, most = asked["min_pods"], asked["max_pods"]
        if "max_pods" not in body and not spec.scaling.max_pods:
            most = max(most, least)  # nobody ever named a bound: the host's default is none to insist on
        if min(asked.values()) < 0 or window_s < 0:
            raise QueryError("invalid", f"{spec.label}: pods and windows are 0 or more")
        if most and least > most:
            raise QueryError("invalid", f"{spec.label}: min_pods {least} is more than max_pods {most}")
        bounds = {**asked, "max_pods": most, "scaledown_window_s": float(window_s)}
        self._deployments.scale(function_id, msgspec.structs.replace(spec.scaling, **bounds))
        return {"function_id": function_id, **settings_of(self._view(function_id))}

    def schema(self, link_id: str, body: Body) -> Body:
        """The JSON schema of a deployed function's parameters, or of a method's. Raises QueryError."""
        app, name = required(body, "app", str), required(body, "name", str)
        function = name.partition(".")[0]
        if app not in self._deployments.apps or name not in self._deployments.apps[app].functions:
            self._deployments.lookup(app, function)
        schemas = self._deployments.apps[app].schemas
        if name not in schemas:
            there = ", ".join(sorted(key for key in schemas if key.startswith(f"{function}.")))
            hint = f" (there is: {there})" if there else f": deploy {app} again to have it"
            raise QueryError("not_found", f"no schema of {app}/{name} is known{hint}")
        return {"schema": schemas[name]}

    def _meant(self, body: Body) -> tuple[str, FunctionSpec]:
        if "function_id" not in body:
            return self._deployments.lookup(required(body, "app", str), required(body, "name", str))
        function_id = required(body, "function_id", str)
        spec = self._functions.specs.get(function_id)
        if spec is None:
            raise QueryError("not_found", f"unknown function {function_id!r}")
        return function_id, spec

    def _view(self, function_id: str) -> FunctionView:
        view = self._cores.cores.cluster_manager.function_view(function_id)
        if view is None:
            raise QueryError("not_found", f"function {function_id!r} was removed")
        return view

    @staticmethod
    def _describe_decision(decision: ScalingDecision) -> Body:
        described: Body = decision._asdict()
        described["at"] = time.time() - (time.monotonic() - described.pop("at_s"))
        return described


def settings_of(view: FunctionView) -> Body:
    return {
        "min_pods": view.min_pods,
        "max_pods": view.max_pods,
        "buffer_pods": view.buffer_pods,
        "scaledown_window_s": view.scaledown_window_s,
    }


def describe_spec(spec: FunctionSpec) -> Body:
    return {
        "label": spec.label,
        "kind": spec.kind,
        "environment": spec.environment,
        "cpu": spec.resources.cpu,
        "memory_mib": spec.resources.memory_mib,
        "timeout_s": spec.timeout_s,
        "startup_timeout_s": spec.startup_timeout_s,
        "max_inputs": spec.scaling.max_inputs,
        "target_inputs": spec.scaling.target_inputs or spec.scaling.max_inputs,
        "methods": dict(sorted(spec.methods.items())),
    }
