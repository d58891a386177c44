from __future__ import annotations

import os
import socket

import pytest

from deepserve.protocol.framing import FrameReader, encode_frame
from deepserve.protocol.messages import ForkPod, PodExited
from deepserve_runtime.template import Template


def test_a_fork_that_the_host_refuses_fails_its_pod_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(os, "fork", refuse)
    monkeypatch.setattr("deepserve_runtime.template.running_threads", lambda: "")
    with ours, theirs:
        template = Template("python", theirs.fileno())
        template._later = None
        for pod_id in ("pod-1", "pod-2"):
            ours.sendall(encode_frame(ForkPod(pod_id, "token", "/nowhere")))
        ours.shutdown(socket.SHUT_WR)
        template.run()
        reader = FrameReader()
        reader.feed(ours.recv(1 << 16))
    assert [message for message, _ in reader.frames()] == [PodExited("pod-1", 0, 1), PodExited("pod-2", 0, 1)]


def test_what_cannot_be_loaded_ahead_is_left_out() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        template = Template("python", theirs.fileno())
        loaded: list[str] = []
        template._later = iter([refuse, lambda: loaded.append("next")])
        for _ in range(3):
            template._load_more()
        assert loaded == ["next"] and template._later is None


def refuse() -> int:
    raise BlockingIOError("no more processes")
