"""Processes below the controller: adopting orphans, reaping, and finding what a dead pod left running."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from deepserve_controller.service.reactor import running_reactor

POD_VARIABLE = b"DEEPSERVE_POD_ID="
"""Each pod sets it, in the memory that its forked children inherit and for the programs that it starts."""

OnExit = Callable[[int], None]
"""Called with the exit code: negative for a signal, as in subprocess."""


class ProcessStat(NamedTuple):
    pid: int
    parent_pid: int
    group: int
    start_ticks: int
    is_zombie: bool


def read_stat(pid: int) -> ProcessStat | None:
    """None where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    # The name may hold spaces and brackets: fields are counted from the last one.
    fields = text[text.rindex(b")") + 2 :].split()
    return ProcessStat(pid, int(fields[1]), int(fields[2]), int(fields[19]), fields[0] in (b"Z", b"X"))


def all_processes() -> list[ProcessStat]:
    found = (read_stat(int(name)) for name in os.listdir("/proc") if name.isdecimal())
    return [stat for stat in found if stat is not None]


def descendants(root_pid: int, processes: Iterable[ProcessStat] | None = None) -> list[int]:
    """Live processes below `root_pid`, without itself."""
    children: dict[int, list[ProcessStat]] = {}
    for stat in all_processes() if processes is None else processes:
        children.setdefault(stat.parent_pid, []).append(stat)
    found: list[int] = []
    pending = [root_pid]
    while pending:
        for stat in children.get(pending.pop(), ()):
            pending.append(stat.pid)
            if not stat.is_zombie:
                found.append(stat.pid)
    return found


def pod_of(pid: int) -> str | None:
    """The pod that this process descends from, as its environment says; None where it says nothing."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return None
    for variable in variables:
        if variable.startswith(POD_VARIABLE):
            return variable[len(POD_VARIABLE) :].decode(errors="replace")
    return None


def kill_process(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def kill_tree(pid: int) -> None:
    """The process, its group and all below it, wherever their groups and sessions are."""
    below = descendants(pid)
    kill_group(pid)
    kill_process(pid)
    for child in below:
        kill_process(child)


class ChildReaper:
    """Collects the exit of every child: templates, and what was adopted from dead pods and templates."""

    def __init__(self) -> None:
        self._watched: dict[int, OnExit] = {}

    def start(self) -> None:
        running_reactor().on_signal(signal.SIGCHLD, self.reap)
        self.reap()

    def stop(self) -> None:
        running_reactor().off_signal(signal.SIGCHLD)

    def watch(self, pid: int, on_exit: OnExit) -> None:
        """`on_exit` is called once, when this process reaps `pid`."""
        self._watched[pid] = on_exit

    def forget(self, pid: int) -> None:
        self._watched.pop(pid, None)

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            on_exit = self._watched.pop(pid, None)
            if on_exit is not None:
                on_exit(os.waitstatus_to_exitcode(status))


def kill_orphans(spared_pids: set[int], live_pods: set[str]) -> list[int]:
    """Kills adopted processes that belong to no live pod, with all below them; returns their ids.

    A process is adopted when its parent dies. What a live pod started to outlive its parent (a daemon) is spared: its
    environment names that pod.
    """
    me = os.getpid()
    processes = all_processes()
    killed: list[int] = []
    for stat in processes:
        if stat.parent_pid != me or stat.pid in spared_pids or stat.is_zombie:
            continue
        if pod_of(stat.pid) in live_pods:
            continue
        for pid in [*descendants(stat.pid, processes), stat.pid]:
            kill_process(pid)
            killed.append(pid)
    return killed


def kill_all_descendants(limit_s: float = 5.0) -> bool:
    """Ends everything below this process and reaps it. Blocks; True where nothing is left.

    New processes may appear while the list is read, so it is read again until it is empty.
    """
    until_s = time.monotonic() + limit_s
    while _reap_any():
        for pid in descendants(os.getpid()):
            kill_process(pid)
        if time.monotonic() > until_s:
            return False
        time.sleep(0.001)
    return True


def _reap_any() -> bool:
    """Whether children are left; orphans come to this process, so without children it has no descendants either."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True
