"""Questions about what functions have printed."""

from __future__ import annotations

from deepserve_controller.errors import QueryError
from deepserve_controller.service.deployments import Deployments
from deepserve_controller.service.functions import Functions
from deepserve_controller.service.logs import Logs
from deepserve_controller.service.pod_links import PodLinks
from deepserve_controller.service.query_body import Body, optional, required

MAX_LOG_BYTES = 512 << 10


class LogQueries:
    def __init__(self, functions: Functions, deployments: Deployments, pods: PodLinks, logs: Logs) -> None:
        self._functions = functions
        self._deployments = deployments
        self._pods = pods
        self._logs = logs

    def read(self, link_id: str, body: Body) -> Body:
        target = required(body, "target", str)
        pod = self._pods.pods.get(target)
        labels = [pod.label] if pod else self._labels_meant(target)
        if not labels:
            there = ", ".join(self._known_labels()) or "none"
            raise QueryError("not_found", f"no function or app {target!r} (there is: {there})")
        if optional(body, "follow", bool, False):
            for label in labels:
                self._logs.follow(link_id, label)
        lines = optional(body, "tail", int, 0)
        text = b"".join(self._logs.tail(label, lines) for label in labels)[-MAX_LOG_BYTES:].decode("utf-8", "replace")
        # What is no text grows threefold when it is replaced, and the answer has to fit into a header.
        return {"text": text.encode()[-MAX_LOG_BYTES:].decode("utf-8", "ignore"), "labels": labels}

    def _known_labels(self) -> list[str]:
        return sorted({*self._logs.labels(), *(spec.label for spec in self._functions.specs.values())})

    def _labels_meant(self, target: str) -> list[str]:
        """Of an app or a function. A deployed one may have another name than its file gave it."""
        app = self._deployments.apps.get(target.split("/")[0])
        if app is not None:
            wanted = sorted(name for name in app.functions if target in (app.name, f"{app.name}/{name}"))
            return [app.specs[app.functions[name]].label for name in wanted]
        return [label for label in self._known_labels() if label == target or label.startswith(target + "/")]
