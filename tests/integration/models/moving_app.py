"""A script with two models on a host that pretends to have two NPUs; run by test_device_moves.py.

Nobody reads on in the stream that holds the NPU which the other model needs: only a move can free it.
"""

from __future__ import annotations

import sys
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
