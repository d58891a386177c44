"""Questions and orders outside the call path, by name: plain dicts in and out."""

from __future__ import annotations

import os
from collections.abc import Callable

from deepserve_controller.errors import QueryError
from deepserve_controller.service.app_queries import AppQueries
from deepserve_controller.service.deployments import Deployments
from deepserve_controller.service.fault_queries import FaultQueries
from deepserve_controller.service.function_queries import FunctionQueries
from deepserve_controller.service.functions import Functions
from deepserve_controller.service.log_queries import LogQueries
from deepserve_controller.service.logs import Logs
from deepserve_controller.service.loop import CoreLoop
from deepserve_controller.service.model_queries import ModelQueries
from deepserve_controller.service.pod_links import PodLinks
from deepserve_controller.service.query_body import Body
from deepserve_controller.service.reactor import running_reactor
from deepserve_controller.service.request_queries import RequestQueries
from deepserve_controller.service.requests import Requests
from deepserve_controller.service.results import KeptResults
from deepserve_controller.service.status_queries import StatusQueries


class Queries:
    def __init__(
        self,
        about: Body,
        cores: CoreLoop,
        functions: Functions,
        deployments: Deployments,
        pods: PodLinks,
        requests: Requests,
        kept: KeptResults,
        logs: Logs,
        on_shutdown: Callable[[], None],
    ) -> None:
        """`about`: what `status` says of the controller itself."""
        self.about = about
        self._on_shutdown = on_shutdown
        of_apps = AppQueries(cores, deployments, pods)
        of_requests = RequestQueries(cores, pods, requests, kept)
        of_functions = FunctionQueries(cores, functions, deployments)
        of_models = ModelQueries(deployments, functions, of_functions, pods, requests.routes, logs)
        of_faults = FaultQueries(about["mode"], pods.faults)
        self._answers: dict[str, Callable[[str, Body], Body]] = {
            "status": StatusQueries(about, cores, deployments, pods, requests).status,
            "logs": LogQueries(functions, deployments, pods, logs).read,
            "shutdown": self._shutdown,
            "apps": of_apps.apps,
            "functions": of_apps.functions,
            "lookup": of_apps.lookup,
            "check_deploy": of_apps.check,
            "deploy": of_apps.deploy,
            "stop_app": of_apps.stop,
            "function": of_functions.describe,
            "scale": of_functions.scale,
            "schema": of_functions.schema,
            "models": of_models.list,
            "find_model": of_models.find,
            "model": of_models.describe,
            "requests": of_requests.requests,
            "result_info": of_requests.result_info,
            "timeline": of_requests.timeline,
            "move": of_requests.move,
            "order_fault": of_faults.order,
            "withdraw_fault": of_faults.withdraw,
        }

    def add(self, answers: dict[str, Callable[[str, Body], Body]]) -> None:
        """More names, answered elsewhere."""
        self._answers |= answers

    def answer(self, link_id: str, name: str, body: Body) -> Body:
        """Raises QueryError."""
        found = self._answers.get(name)
        if found is None:
            raise QueryError("invalid", f"unknown query {name!r}")
        return found(link_id, body)

    def _shutdown(self, link_id: str, body: Body) -> Body:
        # After the answer is on its way.
        running_reactor().call_later(0.01, self._on_shutdown)
        return {"pid": os.getpid()}
