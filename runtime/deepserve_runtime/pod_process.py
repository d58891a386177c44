"""What a forked child does to become a pod, and no longer a copy of its template."""

from __future__ import annotations

import atexit
import ctypes
import gc
import hashlib
import os
import random
import signal
import sys
import traceback
import types
from typing import Any, NoReturn, TextIO

from deepserve.protocol import PROTOCOL_VERSION
from deepserve.protocol.messages import ForkPod, Hello, Welcome
from deepserve_runtime import sdk
from deepserve_runtime.agent import PodAgent
from deepserve_runtime.environments import use_given_threads
from deepserve_runtime.link import Link, LinkClosed, dial, dial_log
from deepserve_runtime.task import flush_prints

POD_ID_VARIABLE = "DEEPSERVE_POD_ID"
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def become_pod(order: ForkPod, template_pid: int) -> NoReturn:
    """Runs the pod; the process ends here, whatever happens."""
    exit_code = 1
    try:
        _leave_template(template_pid)
        _reseed()
        use_given_threads()
        _sign(order.pod_id)
        sdk.tell_no_timeline()
        sdk.refuse_network_if_asked()
        PodAgent(order.pod_id, lambda: _dial(order), order.memory_mib).run()
        atexit._run_exitfuncs()
        exit_code = 0
    except LinkClosed as error:
        print(f"pod {order.pod_id}: {error}", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        flush_prints()
        os._exit(exit_code)


def _leave_template(template_pid: int) -> None:
    """Own process group, ended with the template, none of its descriptors or signal handlers."""
    os.setpgid(0, 0)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != template_pid:
        os._exit(1)  # the template ended before the order above took effect
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


def _sign(pod_id: str) -> None:
    """All that descends from this process carries the pod's id, so that it is found when the pod dies, and only then.

    Programs get it as a variable. A child that is forked without one (a daemon) has no environment of its own: what
    /proc shows is the memory that the template was started with, inherited through the forks. So the pod's copy of it
    is overwritten, in the place that the controller left for it. The other way, to make every pod a child subreaper,
    leaves zombies that only a general wait() could collect, and makes user code's own `os.wait()` find strangers.
    """
    os.environ[POD_ID_VARIABLE] = pod_id
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[47]), int(fields[48])
    name = f"\0{POD_ID_VARIABLE}=".encode()
    area = b"\0" + ctypes.string_at(start, end - start)
    at = area.find(name)
    if at < 0:
        return  # the template was not started by a controller
    room = area.index(b"\0", at + len(name)) - at - len(name)
    ctypes.memmove(start + at + len(name) - 1, pod_id.encode()[:room].ljust(room, b"\0"), room)


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass  # the listing's own descriptor


def _ignore(signal_number: int, frame: Any) -> None:
    """An interrupt is the script's to handle. A handler, not SIG_IGN, which the pod's own children would inherit."""


def _reseed() -> None:
    """Pods of one template must not draw the same numbers."""
    random.seed()
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(random.getrandbits(63))


def _dial(order: ForkPod) -> tuple[Link, Welcome]:
    hello = Hello(PROTOCOL_VERSION, "pod", order.pod_id, order.token, sdk.PYTHON, os.getpid())
    connection, reader, welcome = dial(order.socket, hello)
    log_key = hashlib.sha256((order.token + "/log").encode()).hexdigest()[:32]
    for fd, stream in ((1, sys.stdout), (2, sys.stderr)):
        _send_output(order, fd, stream, log_key)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return Link(connection, reader), welcome


def _send_output(order: ForkPod, fd: int, stream: TextIO, log_key: str) -> None:
    """From here what is written to `fd`, also by libraries and children, goes to the controller."""
    name = f"{order.pod_id}/{'stdout' if fd == 1 else 'stderr'}"
    log = dial_log(order.socket, Hello(PROTOCOL_VERSION, "log", name, log_key, pid=os.getpid()))
    stream.flush()
    os.dup2(log.fileno(), fd)
    log.close()
    stream.reconfigure(line_buffering=True)  # type: ignore[attr-defined]
