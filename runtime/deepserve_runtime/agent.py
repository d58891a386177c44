"""PodAgent: reads the link, feeds the lifecycle, carries out what it orders."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Any

from deepserve.protocol.journals import unpacked
from deepserve.protocol.map_messages import AssignChunk, RecallInputs
from deepserve.protocol.messages import (
    AssignTask,
    BindExecutor,
    BundleContent,
    CancelReceived,
    CancelTask,
    ExecutorFailed,
    ExecutorReady,
    FetchBundle,
    Message,
    OpenRequest,
    PodEnding,
    PrepareTask,
    ReleaseTask,
    SetContextTtl,
    SleepExecutor,
    StopPod,
    TaskCredit,
    Welcome,
)
from deepserve.protocol.specs import FunctionSpec
from deepserve_runtime import sdk
from deepserve_runtime.begun_page import BegunPage
from deepserve_runtime.bundle_store import BundleError
from deepserve_runtime.chunk import Chunk
from deepserve_runtime.core import lifecycle as life
from deepserve_runtime.cpu_weight import weigh
from deepserve_runtime.error_outcome import describe, encode_error
from deepserve_runtime.executors import make_executor
from deepserve_runtime.executors.base import MovingExecutor, TaskExecutor
from deepserve_runtime.link import Link, LinkClosed
from deepserve_runtime.memory_limit import MemoryLimit, load_error
from deepserve_runtime.pod import Pod
from deepserve_runtime.snapshot import Snapshot
from deepserve_runtime.task import Task
from deepserve_runtime.task_threads import TaskThreads
from deepserve_runtime.visible_devices import show_devices

Dial = Callable[[], tuple[Link, Welcome]]


class PodAgent:
    """One per pod. The main thread runs user code, and reads the link while there is none to run."""

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        """`snapshot`: what the pod is forked with, and so is bound to from the start. Made in a template, which runs
        none, the agent is one thing less to do in each pod."""
        self._pod_id = ""
        self._lifecycle = life.PodLifecycle()
        self._lock = threading.Lock()
        self._tasks: dict[str, Task] = {}
        self._arriving: Task | None = None
        self._contents: dict[str, queue.SimpleQueue[bytes | None]] = {}
        self._executor: TaskExecutor | None = None
        self._loading: life.LoadExecutor | None = None
        self._snapshot = snapshot
        self._memory: MemoryLimit | None = None
        self._kv_bytes = 0
        self._receivers: dict[type[Message], Callable[[Any, bytes], None]] = {
            AssignTask: self._on_assign,
            AssignChunk: self._on_chunk,
            RecallInputs: self._on_recall,
            PrepareTask: self._on_prepare,
            ReleaseTask: self._on_release,
            CancelTask: self._on_cancel,
            TaskCredit: self._on_credit,
            BindExecutor: self._on_bind,
            BundleContent: self._on_bundle,
            StopPod: self._on_stop,
            SleepExecutor: self._on_sleep,
            SetContextTtl: self._on_context_ttl,
            Welcome: lambda message, payload: None,  # a forked pod knows it already, and did not wait for it
        }
        self._performers: dict[type, Callable[[Any], None]] = {
            life.RunTask: self._run_task,
            life.DialController: self._dial_controller,
            life.LoadExecutor: lambda action: self._threads.main.inbox.put(lambda: self._load(action)),
            life.ReportReady: self._report_ready,
            life.ReportFailed: self._report_failed,
            life.RefuseTask: self._refuse_task,
            life.InterruptTask: self._interrupt_task,
            life.UnloadExecutor: lambda action: self._threads.main.inbox.put(self._unload),
            life.ExitPod: self._exit,
        }

    def run(self, pod_id: str, dial: Dial, memory_mib: int = 0, kv_bytes: int = 0) -> None:
        """On the main thread, until the pod is stopped. kv_bytes: see BindExecutor, of one that is bound already."""
        self._pod_id, self._dial, self._kv_bytes = pod_id, dial, kv_bytes
        self._memory = MemoryLimit(memory_mib) if memory_mib > 0 else None
        self._handle(life.PodStarted())
        if self._snapshot is not None:
            self._handle(life.BindArrived(self._snapshot.function_id, self._snapshot.spec))
            if not self._snapshot.code.has_pod_hooks:  # which may make calls, and so need a reader
                self._threads.main.run_next()
        reader = self._link.reader(self._receive, self._lose_link, self._check_memory if self._memory else None)
        self._pod.on_copied = reader.close_copy
        reader.start()
        self._threads.main.loop(reader)

    def _handle(self, event: life.Event) -> None:
        with self._lock:
            actions = self._lifecycle.handle(event, time.monotonic())
        for action in actions:
            self._performers[type(action)](action)

    # --- the link, on the thread that reads it -------------------------------------------------------------

    def _receive(self, message: Message, payload: bytes) -> None:
        receive = self._receivers.get(type(message))
        if receive is not None:
            receive(message, payload)
        else:
            self._client.deliver(message, payload)

    def _lose_link(self, text: str) -> None:
        self._handle(life.LinkLost(text))

    def _on_assign(self, message: AssignTask, payload: bytes) -> None:
        self._arriving = Task(self._pod, *unpacked(message, payload), self._put_away)
        self._handle(life.TaskArrived(self._arriving.key))

    def _on_chunk(self, message: AssignChunk, payload: bytes) -> None:
        self._arriving = Chunk(self._pod, message, payload, self._put_away, self._page)
        self._handle(life.TaskArrived(self._arriving.key))

    def _on_recall(self, message: RecallInputs, payload: bytes) -> None:
        chunk = self._tasks.get(message.task_id)
        if isinstance(chunk, Chunk) and chunk.key == (message.task_id, message.attempt):
            chunk.recall()

    @cached_property
    def _page(self) -> BegunPage | None:
        return BegunPage.make(self._pod.segments, self._pod_id)

    def _on_prepare(self, message: PrepareTask, payload: bytes) -> None:
        if isinstance(self._executor, MovingExecutor):
            self._executor.prepare(*unpacked(message, payload), self._link.send)

    def _on_release(self, message: ReleaseTask, payload: bytes) -> None:
        task = self._tasks.get(message.task_id)
        if task is not None and task.key == (message.task_id, message.attempt):
            task.leave()

    def _on_cancel(self, message: CancelTask, payload: bytes) -> None:
        self._handle(life.CancelArrived((message.task_id, message.attempt), message.reason))
        with suppress(LinkClosed):  # whose end is read next
            self._link.send(CancelReceived(message.task_id, message.attempt))

    def _on_credit(self, message: TaskCredit, payload: bytes) -> None:
        task = self._tasks.get(message.task_id)
        if task is not None:
            task.grant(message.items, message.size_bytes)

    def _on_bind(self, message: BindExecutor, payload: bytes) -> None:
        show_devices(message.device_kind, message.device_ids)
        self._kv_bytes = message.kv_bytes
        self._handle(life.BindArrived(message.function_id, message.spec))

    def _on_bundle(self, message: BundleContent, payload: bytes) -> None:
        waiting = self._contents.get(message.digest)
        if waiting is not None:
            waiting.put(None if message.missing else payload)

    def _on_sleep(self, message: SleepExecutor, payload: bytes) -> None:
        sleep = getattr(self._executor, "sleep", None)
        if sleep is not None:  # of a model
            self._threads.main.inbox.put(lambda: sleep(message.level))

    def _on_context_ttl(self, message: SetContextTtl, payload: bytes) -> None:
        set_ttl = getattr(self._executor, "set_context_ttl", None)
        if set_ttl is not None:  # of a model
            set_ttl(message)

    def _on_stop(self, message: StopPod, payload: bytes) -> None:
        self._handle(life.StopArrived(message.reason))

    def _check_memory(self) -> None:
        assert self._memory is not None
        if self._executor is None:
            return  # what is there is the environment's; who loads something sees whether that has room beside it
        if text := self._memory.excess():
            with suppress(LinkClosed):  # the controller ended just now: this pod does so all the same
                if (loading := self._loading) is not None:
                    self._handle(life.ExecutorLoadFailed(loading.function_id, load_error(loading.spec, text)))
                self._link.send(PodEnding(text))  # first: an outcome makes room for the next task
                for task in list(self._tasks.values()):
                    task.fail(MemoryError(text))
            self._exit(life.ExitPod(text, at_once=True))

    # --- what the lifecycle orders -----------------------------------------------------------------------

    def _dial_controller(self, action: life.DialController) -> None:
        self._link, welcome = self._dial()
        self._pod = Pod(self._pod_id, self._link, welcome)
        self._threads = TaskThreads(self._link)
        self._threads.main.install()
        self._client = sdk.Client(self._send_for_user, welcome=welcome, client_id=self._pod_id, is_pod=True)
        sdk.install(self._client)
        self._handle(life.ControllerJoined())

    def _send_for_user(self, message: Message, payload: Any = b"") -> None:
        if self._pod.is_copy:
            raise LinkClosed("a process that was forked inside a pod cannot make remote calls")
        if type(message) is OpenRequest and isinstance(caller := self._tasks.get(message.parent_task_id), Chunk):
            caller.before_call()
        self._link.send(message, payload)

    def _load(self, action: life.LoadExecutor) -> None:
        """On the main thread: import hooks and signal handlers of user code expect it."""
        try:
            weigh(action.spec.resources.cpu)
            self._pod.code = action.spec.code
            self._loading = action
            self._executor = self._make(action.spec)
            steps_ms = self._executor.load()
        except BaseException as error:
            self._handle(life.ExecutorLoadFailed(action.function_id, error))
        else:
            self._loading = None
            self._handle(life.ExecutorLoaded(action.function_id, self._executor.slots, steps_ms))

    def _make(self, spec: FunctionSpec) -> TaskExecutor:
        code = self._snapshot.code if self._snapshot is not None else None
        return make_executor(self._pod, spec, self._fetch_bundle, self._threads, code, self._kv_bytes)

    def _fetch_bundle(self, digest: str) -> bytes:
        waiting = self._contents.setdefault(digest, queue.SimpleQueue())
        self._link.send(FetchBundle(digest))
        content = waiting.get()
        del self._contents[digest]
        if content is None:
            raise BundleError(f"the controller has no bundle {digest}")
        return content

    def _report_ready(self, action: life.ReportReady) -> None:
        executor = self._executor
        assert executor is not None
        self._link.send(
            ExecutorReady(
                action.function_id,
                action.slots,
                action.steps_ms,
                executor.source,
                executor.source_reason,
                executor.is_template_stale,
                executor.weights,
                executor.memory,
            )
        )

    def _report_failed(self, action: life.ReportFailed) -> None:
        value, payload = encode_error(action.error, self._pod_id)
        self._link.send(ExecutorFailed(action.function_id, describe(action.error), value), payload)

    def _run_task(self, action: life.RunTask) -> None:
        task, executor = self._arriving, self._executor
        assert task is not None and executor is not None and task.key == action.key
        self._tasks[task.assignment.task_id] = task
        executor.assign(task)

    def _refuse_task(self, action: life.RefuseTask) -> None:
        task = self._arriving
        assert task is not None and task.key == action.key
        task.refuse(action.text)

    def _interrupt_task(self, action: life.InterruptTask) -> None:
        task = self._tasks.get(action.key[0])
        if task is not None and task.key == action.key:
            task.cancel(action.reason)

    def _put_away(self, task: Task) -> None:
        if self._tasks.get(task.assignment.task_id) is task:
            del self._tasks[task.assignment.task_id]
        self._handle(life.TaskEnded(task.key))

    def _unload(self) -> None:
        try:
            if self._executor is not None:
                self._executor.unload()
        except BaseException:
            traceback.print_exc()  # an exit hook that fails is for the log; the pod ends all the same
        self._handle(life.ExecutorUnloaded())

    def _exit(self, action: life.ExitPod) -> None:
        if not action.at_once:
            self._threads.main.inbox.put(None)
        elif os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        else:
            os._exit(1)
