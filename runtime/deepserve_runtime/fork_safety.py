"""What a process holds that its forked children could not use, or would have to share; each with its name."""

from __future__ import annotations

import fcntl
import gc
import os
import random
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

ENDING_S = 0.1
"""How long a thread that has ended for Python may take to be gone for the kernel."""
HARMLESS_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
FIRST_USER_FD = 3


def obstacle(own_fds: Iterable[int], is_snapshot: bool) -> str:
    """The first thing that forbids to fork this process, in words; empty where nothing does.

    own_fds: descriptors that the children will close. Without `is_snapshot` nobody asked for shared state, so random
    generators that user code made are an obstacle too: each pod is to draw numbers of its own.
    """
    checks = (
        open_devices(),
        python_threads(),
        native_threads(),
        descriptors(set(own_fds)),
        child_processes(),
        timers(),
    )
    for found in checks:
        for text in found:
            return text
    if not is_snapshot:
        for text in random_generators():
            return text
    return ""


def open_devices() -> Iterator[str]:
    for module, attribute, name in (("torch", "cuda", "CUDA"), ("torch_npu", "npu", "NPU"), ("torch", "xpu", "XPU")):
        device = getattr(sys.modules.get(module), attribute, None)
        if device is not None and getattr(device, "is_initialized", lambda: False)():
            yield f"{name} is initialised (torch.{attribute})"


def python_threads() -> Iterator[str]:
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            yield f"thread {thread.name!r} is alive"


def native_threads() -> Iterator[str]:
    """Of libraries: a fork would leave their locks and queues behind without the threads."""
    until_s = time.monotonic() + ENDING_S
    while (names := _native_thread_names()) and time.monotonic() < until_s:
        time.sleep(0.005)
    if names:
        yield f"native threads of a library are alive ({len(names)}: {', '.join(sorted(set(names)))})"


def _native_thread_names() -> list[str]:
    # Of the main thread, `native_id` is still the one of the process that this one was forked from.
    known = {thread.native_id for thread in threading.enumerate()} | {threading.get_native_id()}
    names = []
    for name in os.listdir("/proc/self/task"):
        if int(name) not in known:
            with suppress(OSError), open(f"/proc/self/task/{name}/comm") as file:
                names.append(file.read().strip())
    return names


def descriptors(own_fds: set[int]) -> Iterator[str]:
    mapped: set[str] | None = None
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        fd = int(name)
        if fd < FIRST_USER_FD or fd in own_fds:
            continue
        try:
            target, mode = os.readlink(f"/proc/self/fd/{name}"), os.fstat(fd).st_mode
        except OSError:  # the listing's own
            continue
        if stat.S_ISSOCK(mode):
            yield f"{describe_socket(fd)} is open"
        elif not target.startswith("/") or stat.S_ISFIFO(mode):
            yield f"a {target.partition(':')[2].strip('[]') if target.startswith('anon_inode') else 'pipe'} is open"
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            if target not in HARMLESS_DEVICES:
                yield f"device {target} is open"
        elif stat.S_ISREG(mode) and not _is_shareable(fd):
            mapped = mapped_files() if mapped is None else mapped
            if target not in mapped:
                yield f"file {target!r} is open"


def _is_shareable(fd: int) -> bool:
    """Appending writes of several processes do not disturb one another."""
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND)


def mapped_files() -> set[str]:
    """Their descriptors are kept by the mapping: nobody reads at a shared position."""
    with open("/proc/self/maps") as file:
        return {fields[5].rstrip("\n") for line in file if len(fields := line.split(maxsplit=5)) == 6}


def describe_socket(fd: int) -> str:
    end = socket.socket(fileno=fd)
    try:
        family = {socket.AF_UNIX: "unix", socket.AF_INET: "tcp", socket.AF_INET6: "tcp"}.get(end.family, "")
        address = ""
        for name in (end.getpeername, end.getsockname):
            with suppress(OSError):
                address = address or _address_text(name())
        return " ".join(part for part in (family, "socket", address) if part)
    finally:
        end.detach()


def _address_text(address: object) -> str:
    if isinstance(address, tuple):
        return f"{address[0]}:{address[1]}"
    return os.fsdecode(address) if isinstance(address, str | bytes) else ""


def child_processes() -> Iterator[str]:
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return
    pid = found.si_pid if found is not None else _first_child()
    name = ""
    with suppress(OSError), open(f"/proc/{pid}/comm") as file:
        name = file.read().strip()
    yield f"child process {pid} ({name}) has not been waited for"


def _first_child() -> int:
    with suppress(OSError, IndexError), open(f"/proc/self/task/{os.getpid()}/children") as file:
        return int(file.read().split()[0])
    return 0


def timers() -> Iterator[str]:
    for which, name in ((signal.ITIMER_REAL, "real"), (signal.ITIMER_PROF, "profiling")):
        if signal.getitimer(which)[0] > 0:
            yield f"a {name} interval timer runs"


def random_generators() -> Iterator[str]:
    """Made since the collector's last freeze, that is by the user's code or what it imported."""
    kinds: tuple[type, ...] = (random.Random,)
    numpy_random = sys.modules.get("numpy.random")
    kinds += tuple(getattr(numpy_random, name) for name in ("Generator", "RandomState") if hasattr(numpy_random, name))
    names = getattr(sys.modules.get("tempfile"), "_name_sequence", None)  # makes a new one in each process
    own = {id(getattr(random, "_inst", None)), id(_numpy_global(numpy_random)), id(getattr(names, "_rng", None))}
    for found in gc.get_objects():
        kind = type(found)  # not isinstance(), which asks the object itself
        if issubclass(kind, kinds) and not issubclass(kind, random.SystemRandom) and id(found) not in own:
            name = f"{kind.__module__}.{kind.__qualname__}"
            yield f"a {name} is alive: its copies would draw the same numbers"


def _numpy_global(numpy_random: object) -> object:
    return getattr(getattr(numpy_random, "mtrand", None), "_rand", None)
