"""A script with two models on a host that pretends to have two NPUs; run by test_device_moves.py.

Nobody reads on in the stream that holds the NPU which the other model needs: only a move can free it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import deepserve
from deepserve import _current_client

folder = sys.argv[1]
either = deepserve.Model("either", source=folder, accelerator=["npu:910c", "npu:910b"], max_pods=1)
fast = deepserve.Model("fast", source=folder, accelerator="npu:910c", max_pods=1)
LONG: Any = {"max_tokens": 1500, "temperature": 0}


def holders() -> dict[str, str]:
    """By NPU, the model that holds it."""
    status: dict[str, Any] = _current_client.current_client().query("status", {})
    labels = {pod["pod_id"]: pod["label"] for pod in status["pods"]}
    return {device["model"]: labels[device["pod_id"]] for device in status["devices"] if device["pod_id"]}


def is_running(pid: int) -> bool:
    """A process that has ended may stand there until somebody asks for its exit code."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def lose_the_controller(controller_pid: int, pod_pids: list[int]) -> None:
    """In the middle of a stream: its reader is told, and no pod is left."""
    stream = either.stream("hi", **LONG)
    next(stream)
    os.kill(controller_pid, signal.SIGKILL)
    try:
        for _ in stream:
            pass
    except deepserve.errors.ControllerLost:
        while any(map(is_running, pod_pids)):
            time.sleep(0.01)
        print("told, and no pod is left")


if __name__ == "__main__":
    expected = "".join(either.stream("hi", **LONG))
    assert holders() == {"910c": either.spec.label}, holders()
    stream = either.stream("hi", **LONG)
    text = next(stream)
    assert fast.generate("hi", max_tokens=4, temperature=0)
    assert holders() == {"910c": fast.spec.label, "910b": either.spec.label}, holders()
    status = _current_client.current_client().query("status", {})
    [reason] = [pod["reason"] for pod in status["pods"] if pod["label"] == either.spec.label]
    assert text + "".join(stream) == expected, "a token was lost, or came twice"
    print(reason)
    lose_the_controller(status["pid"], [pod["pid"] for pod in status["pods"]])
