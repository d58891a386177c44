"""LocalEngine: an embedded controller that a test has to itself."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from deepserve import _current_client, settings
from deepserve._client import Client
from deepserve._current_client import current_client
from deepserve._marked_processes import marked_processes
from deepserve._network_guard import refuse_network

if TYPE_CHECKING:
    from deepserve.testing.script import Scripts

MARK = "DEEPSERVE_TEST_ENGINE"
"""An environment variable that all processes of the engine inherit."""
SETTLE_S = 5.0
"""After a test: how long cancelled calls may take to end."""
POLL_S = 0.005


class PodKill:
    """What `kill_pod_at` did, once its block is left: the pod's id, and how many calls were started in the block."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.num_started = 0
        self.pod_id = ""


class LocalEngine:
    """The fixture `deepserve_local`. As a context manager it makes this process's calls go to a controller of their
    own, started by the first of them, and ends it with everything that it started.

    may_use_network: otherwise sockets other than unix ones are refused here and in pods (NetworkRefused).
    """

    def __init__(self, may_use_network: bool = False) -> None:
        self.may_use_network = may_use_network
        self._mark = uuid.uuid4().hex
        self._stack = ExitStack()
        self._seen: set[str] = set()

    def __enter__(self) -> LocalEngine:
        before, environment = _current_client.installed_client(), dict(os.environ)
        self._stack.callback(_current_client.install, before)
        self._stack.callback(settings.use_settings, None)
        self._stack.callback(self._restore, environment)
        os.environ[MARK] = self._mark
        os.environ["DEEPSERVE_URL"], os.environ["DEEPSERVE_QUIET"] = "embedded", "1"
        os.environ["DEEPSERVE_STATE"] = ""  # tests begin anew
        self._apply()
        if not self.may_use_network:
            os.environ["DEEPSERVE_NO_NETWORK"] = "1"
            refuse_network()
            self._stack.callback(refuse_network, False)
        _current_client.install(None)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        from deepserve._client_link import disconnect

        try:
            disconnect()
            left = self._processes()
        finally:
            self._stack.close()
        assert not left, f"processes of the test's engine outlived it: {', '.join(map(str, left))}"

    @cached_property
    def scripts(self) -> Scripts:
        """Answers of scripted models, for this process and for pods (so before the first remote call)."""
        from deepserve.testing.script import Scripts

        scripts = Scripts()
        self._stack.callback(scripts.close)
        os.environ["DEEPSERVE_SCRIPTED_MODELS"] = scripts.path
        self._apply()
        return scripts

    # --- what a test asks and orders ---------------------------------------------------------------------

    def pods(self) -> list[dict[str, Any]]:
        """Living pods: `pod_id`, `state`, `label` (app/function), `pid`, `requests` that run on it, and more."""
        found: list[dict[str, Any]] = self._client.query("status")["pods"]
        return found

    def requests(self) -> list[dict[str, Any]]:
        """Calls made in this test, oldest first, also those made inside pods: `label`, `state`, `attempts`, `pod_id`,
        `parent_task_id` ... as in `deepserve.recent_requests`."""
        return [record for record in self._all_requests() if record["request_id"] not in self._seen]

    @contextmanager
    def kill_pod_at(self, step: int, when: Literal["start", "end"] = "start") -> Iterator[PodKill]:
        """Kill the pod that runs the `step`-th call started inside the block, counting from 1.

        start: before the first line of its code. end: when it has done its work, whose outcome is lost. The controller
        counts starts as they are sent to pods, also those of calls inside pods and of retries; inputs of a map that
        travel together count as one. No clock decides.
        Leaving the block without the kill having happened is an AssertionError.
        """
        if not isinstance(step, int) or step < 1 or when not in ("start", "end"):
            raise ValueError(f"kill_pod_at(step={step!r}, when={when!r}): give a step from 1 on, and 'start' or 'end'")
        client, kill = self._client, PodKill(step)
        fault_id = client.query("order_fault", {"step": step, "when": when})["fault_id"]
        has_failed = True
        try:
            yield kill
            has_failed = False
        finally:
            done = client.query("withdraw_fault", {"fault_id": fault_id})
            kill.pod_id, kill.num_started = done["pod_id"], done["num_started"]
            assert has_failed or kill.pod_id, (
                f"kill_pod_at(step={step}): {kill.num_started} calls were started inside the block, no pod was killed"
            )

    def wait_idle(self, timeout: float = 30.0) -> None:
        """Until no call runs or waits any more. Raises TimeoutError naming those that do."""
        left = self._wait(self._running, timeout)
        if left:
            raise TimeoutError(f"after {timeout:g} s there still runs: {_spelled(left)}")

    # --- for the plugin ------------------------------------------------------------------------------------

    def begin_test(self) -> None:
        """What was called before is not this test's."""
        if self._is_started:
            self._seen = {record["request_id"] for record in self._all_requests()}

    def end_test(self) -> None:
        """AssertionError where the test left calls running; they are cancelled."""
        if not self._is_started:
            return
        # What was cancelled, or left early, is on its way out: only what is still there after a while was forgotten.
        left = self._wait(self._running, SETTLE_S)
        for record in left:
            self._client.cancel(record["request_id"], force=True)
        assert not left, f"the test left calls running (wait for them, or cancel them): {_spelled(left)}"

    # --- inside --------------------------------------------------------------------------------------------

    @property
    def _client(self) -> Client:
        return current_client()

    @property
    def _is_started(self) -> bool:
        client = _current_client.installed_client()
        return client is not None and client.closed is None

    def _all_requests(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._client.query("requests", {"limit": 1 << 20})["requests"]
        return sorted(found, key=lambda record: record["arrived_at"])

    def _running(self) -> list[dict[str, Any]]:
        return [record for record in self._all_requests() if record["state"] in ("running", "queued")]

    def _wait(self, find: Callable[[], list[dict[str, Any]]], timeout_s: float) -> list[dict[str, Any]]:
        """What is found until nothing is, or the time is over."""
        ends_at_s = time.monotonic() + timeout_s
        while (found := find()) and time.monotonic() < ends_at_s:
            time.sleep(POLL_S)
        return found

    def _processes(self) -> list[int]:
        """A controller that was killed may still be taking its pods with it."""
        ends_at_s = time.monotonic() + SETTLE_S
        while (left := marked_processes(MARK, self._mark)) and time.monotonic() < ends_at_s:
            time.sleep(POLL_S)
        return left

    def _apply(self) -> None:
        settings.use_settings(None)

    def _restore(self, environment: dict[str, str]) -> None:
        changed = ("URL", "QUIET", "STATE", "NO_NETWORK", "SCRIPTED_MODELS")
        for name in (MARK, *(f"DEEPSERVE_{word}" for word in changed)):
            os.environ.pop(name, None)
            if name in environment:
                os.environ[name] = environment[name]


def _spelled(records: list[dict[str, Any]]) -> str:
    return ", ".join(f"{record['label']} ({record['request_id']}, {record['state']})" for record in records)
