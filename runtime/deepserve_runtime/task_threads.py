"""Threads that run synchronous user code: the main thread first, more where a task blocks it.

Only the main thread can be interrupted inside a system call (by a signal); the others are interrupted at their next
bytecode. So the main thread takes a task whenever it is free.
"""

from __future__ import annotations

import ctypes
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from deepserve_runtime import sdk
from deepserve_runtime.link import Link, LinkClosed
from deepserve_runtime.link_reader import LinkReader
from deepserve_runtime.task import Task

T = TypeVar("T")
CANCEL_SIGNAL = signal.SIGUSR1
SIGNAL_AGAIN_S = 0.02
NUM_SIGNALS = 50
"""Code that does not heed them in this time is ended by the controller."""


class Inbox(Protocol):
    def put(self, work: Callable[[], None] | None, /) -> None: ...
    def get(self) -> Callable[[], None] | None: ...


class TaskThread:
    """A queue and the thread that empties it. `is_free` is the pool's to change."""

    def __init__(self, threads: TaskThreads) -> None:
        self.threads = threads
        self.ident = 0
        self.inbox: Inbox = queue.SimpleQueue()

    def work(self) -> None:
        """Runs what comes until None comes."""
        self.ident = threading.get_ident()
        while True:
            try:
                work = self.inbox.get()
                if work is None:
                    return
                work()
            except (sdk.errors.InputCancelled, LinkClosed):
                continue  # a cancel that came as its task was ending; who reads the link ends a pod without one

    def interruptibly(self, task: Task, call: Callable[[], T]) -> T:
        """call(), in which a cancel of `task` raises InputCancelled."""
        task.open_to_interrupts(lambda: self._interrupt(task))
        try:
            return call()
        except sdk.errors.InputCancelled:
            task.was_interrupted = True
            raise
        finally:
            self._settle(task)

    def _interrupt(self, task: Task) -> None:
        _raise_in(self.ident, task.interruption)

    def _settle(self, task: Task) -> None:
        while True:
            try:
                task.close_to_interrupts()
                _raise_in(self.ident, None)
                return
            except sdk.errors.InputCancelled:
                continue


class MainInbox:
    """Work for the main thread. From other threads it is rare (the last task of a draining pod ended there), and ends
    the main thread's wait at the link by a signal, which is sent again like one that cancels."""

    def __init__(self) -> None:
        self._works: deque[Callable[[], None] | None] = deque()
        self.is_awaited = False
        """The main thread waits at the link, or is about to."""

    def put(self, work: Callable[[], None] | None) -> None:
        self._works.append(work)
        main = threading.main_thread().ident
        if threading.get_ident() != main:
            while self.is_awaited and self._works:
                signal.pthread_kill(main or 0, CANCEL_SIGNAL)
                time.sleep(SIGNAL_AGAIN_S)

    def get(self) -> Callable[[], None] | None:
        return self._works.popleft()

    def stop_waiting(self) -> None:
        self.is_awaited = False

    def empty(self) -> bool:
        return not self._works


class WokenUp(BaseException):
    """Raised in the main thread while it waits at the link, for there is other work."""


class MainThread(TaskThread):
    """The pod's main thread: it reads the link while it has nothing to run; a cancel arrives as a signal, whose handler
    raises."""

    inbox: MainInbox

    def __init__(self, threads: TaskThreads, link: Link) -> None:
        super().__init__(threads)
        self.inbox = MainInbox()
        self.link = link
        self.ident = threading.main_thread().ident or 0
        self._interruptible: Task | None = None
        self._is_put_off = False
        self._reader: LinkReader | None = None

    def install(self) -> None:
        self.ident = threading.get_ident()
        signal.signal(CANCEL_SIGNAL, self._on_signal)
        self.link.after_write = self._after_write

    def run_next(self) -> None:
        """Work that needs no reader, before there is one."""
        work = self.inbox.get()
        assert work is not None
        work()

    def loop(self, reader: LinkReader) -> None:
        """Until None comes as work."""
        inbox = self.inbox
        self._reader = reader
        while True:
            try:
                while not inbox.empty():
                    work = inbox.get()
                    if work is None:
                        return
                    reader.hand_over()
                    try:
                        work()
                    finally:
                        reader.take_back()
                self._read(reader)
            except (sdk.errors.InputCancelled, LinkClosed, WokenUp):
                continue  # a cancel that came as its task was ending; the end of the link is read next

    def stop_working(self) -> None:
        """Of the main thread, before it sends an outcome: it will be at the link again when the next task comes."""
        if self._reader is not None and threading.get_ident() == self.ident:
            self._reader.take_back()

    def _read(self, reader: LinkReader) -> None:
        inbox = self.inbox
        try:
            inbox.is_awaited = True
            if inbox.empty():
                reader.lead(inbox.stop_waiting)
        finally:
            inbox.is_awaited = False

    def interruptibly(self, task: Task, call: Callable[[], T]) -> T:
        outer, self._interruptible = self._interruptible, task
        try:
            return super().interruptibly(task, call)
        finally:
            self._interruptible = outer

    def _interrupt(self, task: Task) -> None:
        signal.pthread_kill(self.ident, CANCEL_SIGNAL)
        threading.Thread(target=self._insist, args=(task,), name="deepserve-cancel", daemon=True).start()

    def _insist(self, task: Task) -> None:
        """A signal that comes just before a system call blocks does not end it: the next one does."""
        for _ in range(NUM_SIGNALS):
            time.sleep(SIGNAL_AGAIN_S)
            if self._interruptible is not task:
                return
            signal.pthread_kill(self.ident, CANCEL_SIGNAL)

    def _settle(self, task: Task) -> None:
        while True:
            try:
                self._interruptible = None
                task.close_to_interrupts()
                return
            except sdk.errors.InputCancelled:
                continue

    def _on_signal(self, signal_number: int, frame: Any) -> None:
        """Runs in the main thread between two bytecodes, or inside an interrupted system call."""
        if self.inbox.is_awaited and not self.inbox.empty():
            self.inbox.is_awaited = False
            raise WokenUp
        if self.link.is_writing_on(self.ident):
            self._is_put_off = True  # half a frame may be out: finish it first
            return
        task = self._interruptible
        if task is not None and task.cancel_reason:
            self._interruptible = None
            task.was_interrupted = True
            raise task.interruption(task.cancel_reason)

    def _after_write(self) -> None:
        if self._is_put_off and threading.get_ident() == self.ident:
            self._is_put_off = False
            self._on_signal(CANCEL_SIGNAL, None)


class TaskThreads:
    def __init__(self, link: Link) -> None:
        self.main = MainThread(self, link)
        self._lock = threading.Lock()
        self._is_main_free = True
        self._free: list[TaskThread] = []
        self._count = 0

    def run(self, task: Task, run: Callable[[Task, TaskThread], None]) -> None:
        """Gives the task to a free thread; there is always one, as the pool grows."""
        thread = self._take()
        task.before_finish = lambda: self._release(thread)
        thread.inbox.put(lambda: run(task, thread))

    def _take(self) -> TaskThread:
        with self._lock:
            if self._is_main_free:
                self._is_main_free = False
                return self.main
            if self._free:
                return self._free.pop()
            self._count += 1
            thread = TaskThread(self)
        threading.Thread(target=thread.work, name=f"deepserve-task-{self._count}", daemon=True).start()
        return thread

    def _release(self, thread: TaskThread) -> None:
        """The thread's queue takes the next task while it is still putting this one away."""
        if thread is self.main:
            self.main.stop_working()
        with self._lock:
            if thread is self.main:
                self._is_main_free = True
            else:
                self._free.append(thread)


def _raise_in(thread_ident: int, error: type[BaseException] | None) -> None:
    """Makes the thread raise `error` at its next bytecode; None takes back what has not been raised yet."""
    target = ctypes.py_object(error) if error is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_ident), target)
