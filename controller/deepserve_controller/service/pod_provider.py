"""What a place that can start pods must be able to do: written here, where it is needed; `pod_providers` do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from deepserve_controller.service.links import Handler, Link
from deepserve_controller.service.processes import ChildReaper

PodExit = Callable[[str, str, int | None], None]
"""Called with (pod id, reason, exit code): a hint, the controller's own link decides."""


class PodProvider(Protocol):
    """Starts and ends pods. Pods dial in by themselves, so a provider returns no address.

    All methods return at once; failures are reported through the callbacks given at construction
    (`on_start_failed(pod_id, text)`, `on_exit(pod_id, reason, exit_code)`).
    """

    def warm_up(self, environment: str) -> None:
        """Prepare `environment` (start its template) before the first pod is asked for."""

    def start_pod(
        self, pod_id: str, environment: str, token: str, memory_mib: int, template_id: str = "", kv_bytes: int = 0
    ) -> None:
        """`template_id`: a function's template that it is to be forked from, in place of the environment's. kv_bytes:
        what a model's KV cache may take then; 0 without a bound."""

    def start_template(self, template_id: str, environment: str, token: str, memory_mib: int) -> None:
        """A process that will load a function and be forked; for the rest of its life it is a pod to the provider."""

    def join_template(self, template_id: str, pid: int, link: Link) -> Handler:
        """It dialled in: what it says about its pods is for the returned handler."""

    def kill_pod(self, pod_id: str, reason: str) -> None:
        """End the pod and everything it started, now."""

    def start_steps_ms(self, pod_id: str) -> dict[str, float]:
        """What starting it took, by step; empty where the provider does not know."""

    def close(self) -> None:
        """End all pods and templates; nothing is left running when it returns."""


class MakeProvider(Protocol):
    """Called once the controller's socket folder is there; the provider adds the pods' processes to what is reaped."""

    def __call__(
        self, reaper: ChildReaper, socket_path: str, on_start_failed: Callable[[str, str], None], on_exit: PodExit, /
    ) -> PodProvider: ...
