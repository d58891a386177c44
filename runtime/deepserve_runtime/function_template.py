"""A function's template: forked from its environment's, it loads the function once, and pods are forked from it."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, NoReturn

from deepserve.protocol import PROTOCOL_VERSION
from deepserve.protocol.framing import Frame
from deepserve.protocol.messages import (
    BindExecutor,
    BundleContent,
    FetchBundle,
    ForkTemplate,
    Hello,
    Message,
    PodMemory,
    TemplateFailed,
    TemplateReady,
    TemplateRefused,
    Weights,
    WeightsFound,
)
from deepserve.protocol.specs import FunctionSpec
from deepserve_runtime import sdk
from deepserve_runtime.agent import PodAgent
from deepserve_runtime.bundle_store import BundleError, BundleStore
from deepserve_runtime.error_outcome import describe, encode_error
from deepserve_runtime.fork_safety import obstacle
from deepserve_runtime.link import READ_BYTES, Link, LinkClosed, dial
from deepserve_runtime.loaded_code import LoadedCode
from deepserve_runtime.memory_limit import MemoryLimit, load_error
from deepserve_runtime.pod_process import ReadyAgent, leave_template, run_to_the_end, send_output
from deepserve_runtime.snapshot import Snapshot
from deepserve_runtime.step_clock import StepClock
from deepserve_runtime.task import flush_prints
from deepserve_runtime.template import Template

if TYPE_CHECKING:
    from deepserve_runtime.executors.loaded_engine import LoadedEngine

_libc = ctypes.CDLL(None)


def become_template(order: ForkTemplate, template_pid: int) -> NoReturn:
    """Loads and serves; the process ends here, whatever happens."""

    def run() -> None:
        leave_template(template_pid, order.template_id)
        FunctionTemplate(order).run()
        flush_prints()
        # At once: what kept it from being forked (a thread, a child process) may also keep it from ending.
        os.killpg(0, signal.SIGKILL)

    run_to_the_end(f"template {order.template_id}", run)


class FunctionTemplate:
    """`run` ends where the function cannot be loaded or forked, and with its link."""

    def __init__(self, order: ForkTemplate) -> None:
        self._order = order
        hello = Hello(PROTOCOL_VERSION, "template", order.template_id, order.token, sdk.PYTHON, os.getpid())
        self._connection, self._reader, self._welcome = dial(order.socket, hello)
        self._link = Link(self._connection)
        self._store = BundleStore(os.path.join(self._welcome.folder, "bundles"), self._fetch_bundle)
        self._made_calls = False
        self._refusal = ""
        self._source, self._source_reason, self._weights = "file", "", Weights()
        self._memory = PodMemory()
        self._steps = StepClock()

    def run(self) -> None:
        send_output(self._order.template_id, self._order.token, self._order.socket)
        binding = self._next_frame().message
        if not isinstance(binding, BindExecutor):
            raise LinkClosed(f"{type(binding).__name__} came in place of a function to load")
        snapshot = self._load(binding)
        if snapshot is None:
            return
        ready = ReadyAgent(snapshot, PodAgent(snapshot))
        self._settle()
        self._link.send(
            TemplateReady(
                binding.function_id,
                os.getpid(),
                self._steps.steps_ms,
                self._source,
                self._weights,
                self._source_reason,
                self._memory,
            )
        )
        Template(binding.function_id, self._connection.fileno(), ready).run()

    def _load(self, binding: BindExecutor) -> Snapshot | None:
        """None where it was reported why there is none."""
        spec = binding.spec
        client = sdk.Client(self._refuse_call, welcome=self._welcome, client_id=self._order.template_id, is_pod=True)
        sdk.install(client)
        error: BaseException | None = None
        try:
            code = self._load_code(binding)
            self._check_memory(spec)
        except BaseException as raised:
            error = raised
        text = "its code makes remote calls while it is loaded" if self._made_calls else self._refusal
        if error is not None and not text:
            value, payload = encode_error(error, self._order.template_id)
            self._link.send(TemplateFailed(binding.function_id, describe(error), value), payload)
            return None
        if text := text or obstacle([self._connection.fileno()], spec.is_shared):
            print(f"{spec.name}: not snapshotted: {text}", file=sys.stderr, flush=True)
            self._link.send(TemplateRefused(binding.function_id, text, self._memory))
            return None
        return Snapshot(binding.function_id, spec, code, self._welcome)

    def _load_code(self, binding: BindExecutor) -> LoadedCode | LoadedEngine:
        spec = binding.spec
        if spec.kind != "model":
            return LoadedCode(spec, self._store, _run_coroutine, self._steps)
        from deepserve_runtime.executors.model import (  # its environment has it
            NotForkedError,
            load_to_fork,
            size_to_fetch,
        )

        assert spec.model is not None
        if not os.path.isabs(spec.model.source) and (size_bytes := size_to_fetch(spec)):
            self._link.send(WeightsFound(size_bytes))
        try:
            engine = load_to_fork(spec, self._steps, binding.is_ahead, binding.is_awaited)
        except NotForkedError as error:
            self._refusal, self._memory = str(error), error.memory
            raise
        self._source, self._source_reason = engine.source, engine.source_reason
        self._weights, self._memory = engine.weights, engine.memory
        return engine

    def _settle(self) -> None:
        """What is loaded now moves out of the collector's sight: a collection in a pod would write to, and so copy, it
        all. Free memory goes back first, lest each pod fills its own copy of the same holes."""
        flush_prints()
        gc.disable()
        gc.collect()
        gc.freeze()
        if hasattr(_libc, "malloc_trim"):
            _libc.malloc_trim(0)
        self._steps.mark("settle")

    def _check_memory(self, spec: FunctionSpec) -> None:
        if self._order.memory_mib > 0:
            limit = MemoryLimit(self._order.memory_mib)
            text = limit.excess()
            limit.close()
            if text:
                raise load_error(spec, text)

    def _refuse_call(self, message: Message, payload: Any = b"") -> None:
        self._made_calls = True
        raise LinkClosed("no remote call can be made while the function is loaded for a snapshot")

    def _fetch_bundle(self, digest: str) -> bytes:
        self._link.send(FetchBundle(digest))
        message, content = self._next_frame()
        if not isinstance(message, BundleContent) or message.missing:
            raise BundleError(f"the controller has no bundle {digest}")
        return bytes(content)

    def _next_frame(self) -> Frame:
        while (frame := self._reader.next_frame()) is None:
            data = self._connection.recv(READ_BYTES)
            if not data:
                raise LinkClosed("the controller closed the connection")
            self._reader.feed(data)
        return frame


def _run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """On a loop that ends with it: one that runs on would be a thread that forked pods do not have."""
    return asyncio.run(coroutine)
