"""A template that does not answer an order to fork."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from deepserve.protocol.framing import encode_frame
from deepserve.protocol.messages import PodForked, TemplateReady
from deepserve_controller.pod_providers import local
from deepserve_controller.pod_providers.local import LocalPodProvider
from deepserve_controller.pod_providers.template_process import TemplateProcess
from deepserve_controller.service.processes import ChildReaper
from deepserve_controller.service.reactor import Reactor, use_reactor


class Stage:
    """A provider whose templates are processes that sleep; the test speaks in their place."""

    def __init__(self) -> None:
        self.failures: list[tuple[str, str]] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.ends: list[socket.socket] = []
        self.provider = LocalPodProvider(
            ChildReaper(), "/nowhere", lambda *failure: self.failures.append(failure), lambda *exit: None, self.start
        )

    def start(self, environment: str) -> TemplateProcess:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        self.processes.append(subprocess.Popen(command, pass_fds=[theirs.fileno()]))
        self.ends.append(theirs)
        return TemplateProcess(self.processes[-1].pid, ours)

    def order(self, pod_id: str) -> None:
        self.provider.start_pod(pod_id, "python", "token", 0)

    def end_all(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for end in self.ends:
            end.close()


@pytest.fixture
def reactor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reactor]:
    monkeypatch.setattr(local, "SILENCE_LIMIT_S", 0.05)
    reactor = Reactor()
    use_reactor(reactor)
    yield reactor
    reactor.close()


@pytest.fixture
def stage(reactor: Reactor) -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.end_all()


def test_a_stopped_template_is_killed_and_its_pods_fail_to_start(reactor: Reactor, stage: Stage) -> None:
    stage.order("pod-1")
    stage.ends[0].send(encode_frame(TemplateReady("python", 1)) + encode_frame(PodForked("pod-1", 1 << 22)))
    reactor.run_until(lambda: "pod-1" in stage.provider._pids, 30)
    os.kill(stage.processes[0].pid, signal.SIGSTOP)
    stage.order("pod-2")
    assert reactor.run_until(lambda: stage.processes[0].poll() is not None, 30)
    stage.ends[0].close()  # as the end of the process does
    assert reactor.run_until(lambda: bool(stage.failures), 30)
    assert stage.failures == [("pod-2", "the template 'python' did not answer for 0.05 s")]
    stage.order("pod-3")
    assert len(stage.processes) == 2  # the next one


def test_a_template_that_loads_slowly_or_answers_is_left_alone(reactor: Reactor, stage: Stage) -> None:
    stage.order("pod-1")
    assert not reactor.run_until(lambda: stage.processes[0].poll() is not None, 0.2)  # it is not ready yet
    stage.ends[0].send(encode_frame(TemplateReady("python", 1)) + encode_frame(PodForked("pod-1", 1 << 22)))
    assert not reactor.run_until(lambda: stage.processes[0].poll() is not None, 0.2)
    assert not stage.failures
