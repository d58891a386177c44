"""What a forked child does to become a pod, and no longer a copy of its template."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import random
import signal
import sys
import traceback
import types
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn, TextIO

from deepserve.protocol import PROTOCOL_VERSION
from deepserve.protocol.digest import sha256
from deepserve.protocol.messages import ForkPod, Hello, Welcome
from deepserve_runtime import sdk
from deepserve_runtime.agent import PodAgent
from deepserve_runtime.environments import use_given_threads
from deepserve_runtime.link import Link, LinkClosed, dial, dial_log
from deepserve_runtime.snapshot import Snapshot
from deepserve_runtime.task import flush_prints

POD_ID_VARIABLE = "DEEPSERVE_POD_ID"
_PR_SET_PDEATHSIG = 1
_signature: tuple[int, int] | None = None
"""Where the memory that this process was started with names its pod; the same place in all forks."""
_libc = ctypes.CDLL(None, use_errno=True)


def become_pod(order: ForkPod, template_pid: int) -> NoReturn:
    """Runs the pod, forked from an environment's template; the process ends here, whatever happens."""

    def run() -> None:
        leave_template(template_pid, order.pod_id)
        PodAgent().run(order.pod_id, lambda: _dial(order), order.memory_mib)

    run_to_the_end(f"pod {order.pod_id}", run)


def become_bound_pod(order: ForkPod, template_pid: int, fds: Iterable[int], ready: ReadyAgent) -> NoReturn:
    """The same, forked from a function's template, whose descriptors are `fds`: what user code did there stays."""

    def run() -> None:
        _take_own_group(template_pid)
        for fd in fds:
            _close(fd)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        gc.enable()
        _reseed()
        _sign(order.pod_id)
        ready.agent.run(order.pod_id, lambda: _dial_bound(order, ready.snapshot), order.memory_mib, order.kv_bytes)

    run_to_the_end(f"pod {order.pod_id}", run)


class ReadyAgent(NamedTuple):
    """What a function's template has made for its pods."""

    snapshot: Snapshot
    agent: PodAgent


def run_to_the_end(name: str, run: Callable[[], None]) -> NoReturn:
    """Of a forked process: nothing of its template's stack is returned to."""
    exit_code = 1
    try:
        run()
        atexit._run_exitfuncs()
        exit_code = 0
    except LinkClosed as error:
        print(f"{name}: {error}", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        flush_prints()
        os._exit(exit_code)


def _take_own_group(template_pid: int) -> None:
    """Own process group, ended with the template."""
    os.setpgid(0, 0)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != template_pid:
        os._exit(1)  # the template ended before the order above took effect


def leave_template(template_pid: int, pod_id: str) -> None:
    """A process of its own, signed with `pod_id`: none of the template's descriptors, signal handlers or numbers."""
    _take_own_group(template_pid)
    for name in os.listdir("/proc/self/fd"):
        if (fd := int(name)) > 2:
            _close(fd)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, _ignore)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    gc.enable()
    # Without a bundled script there is no `__main__` file: code that was typed travels by value both ways.
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.argv = [""]
    _reseed()
    use_given_threads()
    _sign(pod_id)
    sdk.tell_no_timeline()
    sdk.refuse_network_if_asked()


def _sign(pod_id: str) -> None:
    """All that descends from this process carries the pod's id, so that it is found when the pod dies, and only then.

    Programs get it as a variable. A child that is forked without one (a daemon) has no environment of its own: what
    /proc shows is the memory that the template was started with, inherited through the forks. So the pod's copy of it
    is overwritten, in the place that the controller left for it. The other way, to make every pod a child subreaper,
    leaves zombies that only a general wait() could collect, and makes user code's own `os.wait()` find strangers.
    """
    global _signature
    os.environ[POD_ID_VARIABLE] = pod_id
    if _signature is None:
        _signature = _find_signature()
    address, room = _signature
    ctypes.memmove(address, pod_id.encode()[:room].ljust(room, b"\0"), room)


def _find_signature() -> tuple[int, int]:
    """Address and size; no size where the template was not started by a controller."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[47]), int(fields[48])
    name = f"\0{POD_ID_VARIABLE}=".encode()
    area = b"\0" + ctypes.string_at(start, end - start)
    at = area.find(name)
    if at < 0:
        return start, 0
    return start + at + len(name) - 1, area.index(b"\0", at + len(name)) - at - len(name)


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass  # the listing's own descriptor


def _ignore(signal_number: int, frame: Any) -> None:
    """An interrupt is the script's to handle. A handler, not SIG_IGN, which the pod's own children would inherit."""


def _reseed() -> None:
    """Pods of one template must not draw the same numbers.

    numpy loads its generators at their first use, which then seeds them; torch does so with those of devices.
    """
    random.seed()
    if (numpy_random := sys.modules.get("numpy.random")) is not None:
        numpy_random.seed([random.getrandbits(32) for _ in range(4)])
    if (torch := sys.modules.get("torch")) is not None:
        torch.default_generator.manual_seed(random.getrandbits(63))


def _dial(order: ForkPod) -> tuple[Link, Welcome]:
    hello = Hello(PROTOCOL_VERSION, "pod", order.pod_id, order.token, sdk.PYTHON, os.getpid())
    connection, reader, welcome = dial(order.socket, hello)
    send_output(order.pod_id, order.token, order.socket)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return Link(connection, reader), welcome


def _dial_bound(order: ForkPod, snapshot: Snapshot) -> tuple[Link, Welcome]:
    """Without waiting for the controller's welcome, which the template got."""
    hello = Hello(PROTOCOL_VERSION, "pod", order.pod_id, order.token, sdk.PYTHON, os.getpid())
    connection = dial_log(order.socket, hello)
    send_output(order.pod_id, order.token, order.socket)
    return Link(connection), snapshot.welcome


def send_output(name: str, token: str, socket_path: str) -> None:
    """From here what is written to descriptors 1 and 2, also by libraries and children, goes to the controller."""
    log_key = sha256((token + "/log").encode()).hexdigest()[:32]
    for fd, stream, kind in ((1, sys.stdout, "stdout"), (2, sys.stderr, "stderr")):
        _send_stream(socket_path, f"{name}/{kind}", fd, stream, log_key)


def _send_stream(socket_path: str, name: str, fd: int, stream: TextIO, log_key: str) -> None:
    log = dial_log(socket_path, Hello(PROTOCOL_VERSION, "log", name, log_key, pid=os.getpid()))
    stream.flush()
    os.dup2(log.fileno(), fd)
    log.close()
    stream.reconfigure(line_buffering=True)  # type: ignore[attr-defined]
