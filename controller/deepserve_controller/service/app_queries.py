"""Questions and orders about deployed apps and their functions."""

from __future__ import annotations

import msgspec

from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.errors import QueryError
from deepserve_controller.service.deployments import Deployments
from deepserve_controller.service.function_queries import settings_of
from deepserve_controller.service.loop import CoreLoop
from deepserve_controller.service.model_queries import plain
from deepserve_controller.service.pod_links import PodLinks
from deepserve_controller.service.query_body import Body, optional, required
from deepserve_controller.service.store import App


class AppToCheck(msgspec.Struct, frozen=True):
    app: str
    specs: list[FunctionSpec]


class AppQueries:
    def __init__(self, cores: CoreLoop, deployments: Deployments, pods: PodLinks) -> None:
        self._cores = cores
        self._deployments = deployments
        self._pods = pods

    def apps(self, link_id: str, body: Body) -> Body:
        return {"apps": [describe_app(app) for app in self._deployments.apps.values()]}

    def functions(self, link_id: str, body: Body) -> Body:
        wanted = optional(body, "app", str, "")
        if wanted and wanted not in self._deployments.apps:
            raise QueryError("not_found", f"no app {wanted!r} is deployed")
        functions = []
        for app in self._deployments.apps.values():
            if wanted in ("", app.name):
                functions += [self._describe_function(app, name) for name in sorted(app.functions)]
        return {"functions": functions}

    def lookup(self, link_id: str, body: Body) -> Body:
        function_id, spec = self._deployments.lookup(required(body, "app", str), required(body, "name", str))
        return {"function_id": function_id, "spec": plain(spec)}

    def check(self, link_id: str, body: Body) -> Body:
        """Nothing, where apps could be deployed in this order; `apps`: their names, and the specs of their functions,
        which nobody needs to have defined. Raises QueryError."""
        try:
            apps = msgspec.convert(required(body, "apps", list), list[AppToCheck])
        except msgspec.ValidationError as error:
            raise QueryError("invalid", f"apps: {error}") from None
        self._deployments.check((app.app, app.specs) for app in apps)
        return {}

    def deploy(self, link_id: str, body: Body) -> Body:
        functions = required(body, "functions", dict)
        if not all(isinstance(key, str) and isinstance(value, str) for key, value in functions.items()):
            raise QueryError("invalid", "functions must map names to function ids")
        name = required(body, "app", str)
        before = self._deployments.apps.get(name)
        app = self._deployments.deploy(
            name, functions, optional(body, "entrypoints", dict, {}), optional(body, "schemas", dict, {})
        )
        removed = sorted(set(before.functions) - set(app.functions)) if before else []
        return {**describe_app(app), "is_replaced": before is not None, "removed": removed}

    def stop(self, link_id: str, body: Body) -> Body:
        return describe_app(self._deployments.stop(required(body, "app", str)))

    def _describe_function(self, app: App, name: str) -> Body:
        function_id = app.functions[name]
        spec = app.specs[function_id]
        view = self._cores.cores.cluster_manager.function_view(function_id)
        assert view is not None
        queued, running = self._cores.cores.job_executor.load_of(function_id)
        return {
            "app": app.name,
            "name": name,
            "label": spec.label,
            "kind": spec.kind,
            "function_id": function_id,
            **settings_of(view),
            "reason": view.reason,
            "num_pods": sum(pod.function_id == function_id for pod in self._pods.pods.values()),
            "num_queued": queued,
            "num_running": running,
        }


def describe_app(app: App) -> Body:
    return {
        "app": app.name,
        "revision": app.revision,
        "deployed_at": app.deployed_at,
        "functions": dict(sorted(app.functions.items())),
        "entrypoints": app.entrypoints,
    }
