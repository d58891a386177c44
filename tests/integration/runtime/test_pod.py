"""A real template, real forked pods, and a stand-in for the controller."""

from __future__ import annotations

import pytest

from deepserve.protocol.messages import StopPod
from tests.integration.runtime.stand_in import StandInPod

APP = """
import os

def square(x):
    return x * x

def fail(text):
    raise Boom(text)

class Boom(Exception):
    pass
"""


def test_a_call_returns_its_result(pod: StandInPod) -> None:
    pod.bind("square", files={"app.py": APP})
    assert [pod.call(n) for n in (3, 4)] == [9, 16]


def test_an_exception_arrives_with_its_text_and_the_pod_goes_on(pod: StandInPod) -> None:
    pod.bind("fail", files={"app.py": APP})
    for text in ("first", "second"):
        with pytest.raises(Exception, match=text):
            pod.call(text)


def test_a_stopped_pod_exits_with_zero(pod: StandInPod) -> None:
    pod.bind("square", files={"app.py": APP})
    pod.link.send(StopPod("idle"))
    assert pod.exited().exit_code == 0
