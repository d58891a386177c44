"""The template process: an environment's imports done, no threads; pods are forked from it.

python -m deepserve_runtime.template --environment python --control-fd 3
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from deepserve.protocol.framing import FrameReader, encode_frame
from deepserve.protocol.messages import (
    ForkPod,
    ForkPods,
    ForkTemplate,
    Message,
    PodExited,
    PodForked,
    TemplateFailed,
    TemplateReady,
)
from deepserve_runtime.environments import later_steps, load_environment, use_one_thread
from deepserve_runtime.step_clock import StepClock

if TYPE_CHECKING:
    from deepserve_runtime.pod_process import ReadyAgent

READ_BYTES = 64 << 10
QUIET_MS = 100
"""Without an order, before it loads what later pods may need: the first call has the processor to itself."""


class Birth(NamedTuple):
    """`pod_id`: or that of a function's template, which is reported on like a pod. `become`: in the child."""

    pod_id: str
    become: Callable[[], NoReturn]


class Template:
    """Obeys ForkPod on its control descriptor and reports every pod's end.

    Descriptors are plain numbers here: no object of the parent may close one of a child's later.
    """

    def __init__(self, environment: str, control_fd: int, ready: ReadyAgent | None = None) -> None:
        """`ready`: of a function's template, for its pods."""
        self._environment = environment
        self._ready = ready
        self._control_fd = control_fd
        self._pid = os.getpid()
        self._reader = FrameReader()
        self._poll = select.poll()
        self._poll.register(control_fd, select.POLLIN)
        self._pods: dict[int, tuple[str, int]] = {}
        """Pod id and process id by pidfd."""
        self._later: Iterator[Callable[[], object]] | None = later_steps() if ready is None else None

    def run(self) -> None:
        """Until the end of file on the control descriptor, which ends all pods too."""
        try:
            quiet_ms = QUIET_MS
            while True:
                ready = self._poll.poll(quiet_ms if self._later is not None else None)
                quiet_ms = QUIET_MS if ready else 0
                if not ready:
                    self._load_more()
                for fd, _ in ready:
                    if fd != self._control_fd:
                        self._report_exit(fd)
                    elif not self._receive():
                        return
        finally:
            if os.getpid() == self._pid:
                self._kill_all()

    def _load_more(self) -> None:
        """One step while there is nothing to do."""
        step = next(self._later, None) if self._later is not None else None
        if step is None:
            self._later = None
            return
        with suppress(Exception):  # the pod that needs it is told
            step()

    def _receive(self) -> bool:
        try:
            data = os.read(self._control_fd, READ_BYTES)
        except ConnectionResetError:  # closed with our reports unread
            return False
        if not data:
            return False
        self._reader.feed(data)
        births: list[Birth] = []
        for message, _ in self._reader.frames():
            if isinstance(message, ForkPod | ForkPods):
                orders = message.orders if isinstance(message, ForkPods) else (message,)
                births += [Birth(order.pod_id, partial(self._become_pod, order)) for order in orders]
            elif isinstance(message, ForkTemplate):
                births.append(Birth(message.template_id, partial(self._become_template, message)))
        if births:
            self._fork_all(births)
        return True

    def _become_pod(self, order: ForkPod) -> NoReturn:
        from deepserve_runtime import pod_process  # the environment has loaded it

        if self._ready is None:
            pod_process.become_pod(order, self._pid)
        own_fds = [self._control_fd, *self._pods]
        pod_process.become_bound_pod(order, self._pid, own_fds, self._ready)

    def _become_template(self, order: ForkTemplate) -> NoReturn:
        from deepserve_runtime.function_template import become_template

        become_template(order, self._pid)

    def _fork_all(self, births: list[Birth]) -> None:
        """Nothing else between two forks: this process copies every page that it writes to after each of them."""
        if text := running_threads():
            self._send(TemplateFailed(self._environment, text))
            return
        if self._ready is not None:
            self._ready.snapshot.code.settle()
        started_s = time.perf_counter()
        pids: list[int] = []
        try:
            for birth in births:
                pid = os.fork()
                if pid == 0:
                    birth.become()
                pids.append(pid)
        except OSError:  # the host is out of processes or memory: the pods that run are spared
            traceback.print_exc()
        fork_ms = (time.perf_counter() - started_s) * 1e3 / len(births)
        for birth, pid in zip(births, pids, strict=False):
            self._note_birth(birth.pod_id, pid, fork_ms)
        for birth in births[len(pids) :]:
            self._send(PodExited(birth.pod_id, 0, 1))

    def _note_birth(self, pod_id: str, pid: int, fork_ms: float) -> None:
        with suppress(OSError):
            os.setpgid(pid, pid)  # the child does it too: whoever is first
        pidfd = os.pidfd_open(pid)
        self._pods[pidfd] = (pod_id, pid)
        self._poll.register(pidfd, select.POLLIN)
        self._send(PodForked(pod_id, pid, fork_ms))

    def _report_exit(self, pidfd: int) -> None:
        """The group is killed while the dead pod still holds its number, so that no other can be hit."""
        pod_id, pid = self._pods.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        kill_group(pid)
        _, status = os.waitpid(pid, 0)
        self._send(PodExited(pod_id, pid, os.waitstatus_to_exitcode(status)))

    def _kill_all(self) -> None:
        for _, pid in self._pods.values():
            kill_group(pid)
        for _, pid in self._pods.values():
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _send(self, message: Message) -> None:
        send(self._control_fd, message)


def kill_group(pid: int) -> None:
    for kill in (os.killpg, os.kill):  # a child that was just forked may not have its group yet
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def send(control_fd: int, message: Message) -> None:
    data = memoryview(encode_frame(message))
    with suppress(BrokenPipeError, ConnectionResetError):  # the end of file follows
        while data:
            data = data[os.write(control_fd, data) :]


def running_threads() -> str:
    """Why forking is not safe now; empty where it is."""
    others = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    return f"the template has Python threads alive ({', '.join(others)}); it does not fork" if others else ""


def prepare(environment: str) -> dict[str, float]:
    """Loads everything, checks that a fork is safe, and moves what is loaded out of the collector's sight."""
    steps = StepClock()
    load_environment(environment)
    if text := running_threads():
        raise RuntimeError(text)
    gc.freeze()  # a collection in a pod would otherwise write to, and so copy, every shared page
    steps.mark("imports")
    return steps.steps_ms


def main() -> int:
    match sys.argv[1:]:
        case ["--environment", environment, "--control-fd", fd] if fd.isdecimal():
            return run_template(environment, int(fd))
    print("usage: python -m deepserve_runtime.template --environment NAME --control-fd FD", file=sys.stderr)
    return 2


def run_template(environment: str, control_fd: int) -> int:
    """Until the control connection ends; returns the process's exit code."""
    use_one_thread()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.set_inheritable(control_fd, False)
    gc.disable()
    try:
        steps_ms = prepare(environment)
    except BaseException as error:
        traceback.print_exc()
        text = f"environment {environment!r}: {type(error).__name__}: {error}"
        send(control_fd, TemplateFailed(environment, text))
        return 1
    send(control_fd, TemplateReady(environment, os.getpid(), steps_ms))
    Template(environment, control_fd).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
