"""The five steps of scaling add up to what a start took."""

from __future__ import annotations

import pytest

from deepserve.protocol.scaling_steps import LOAD, POST_LOAD, PRE_LOAD, SCALER_POST, SCALER_PRE
from deepserve_controller.service.scaling_steps import ScalingSteps


def test_of_a_new_process() -> None:
    steps = ScalingSteps(10.0)
    steps.note_joined(10.25)
    steps.note_ready(11.0, {LOAD: 500.0, POST_LOAD: 50.0}, "file")
    steps.note_routable(11.5)
    expected = {SCALER_PRE: 250.0, PRE_LOAD: 200.0, LOAD: 500.0, POST_LOAD: 50.0, SCALER_POST: 500.0}
    assert steps.steps_ms == pytest.approx(expected) and steps.source == "file"


def test_of_a_warm_pod_and_of_steps_by_other_names() -> None:
    steps = ScalingSteps(0.0)
    steps.note_joined(5.0)
    steps.note_taken(100.0)
    steps.note_ready(100.1, {"fetch": 10.0, "import": 20.0}, "file")
    assert steps.steps_ms == pytest.approx({SCALER_PRE: 0.0, PRE_LOAD: 70.0, LOAD: 30.0, POST_LOAD: 0.0})
