"""Both cores wired together, under random events: every request ends exactly once, and nothing is left over."""

from __future__ import annotations

import pytest

from deepserve_controller.core.actions import BindPod, FinishRequest, SendTask, StartPod
from deepserve_controller.core.events import (
    ControllerStarted,
    ExecutorReady,
    FunctionDefined,
    PodConnected,
    RequestArrived,
    TaskFinished,
)
from tests.unit.deepserve_controller.chaos import Chaos
from tests.unit.deepserve_controller.harness import OK, of_type, only, spec

SEEDS_EACH = 15


@pytest.mark.parametrize("are_jobs_first", [False, True])
@pytest.mark.parametrize("first_seed", range(0, 8 * SEEDS_EACH, SEEDS_EACH))
def test_whatever_happens_every_request_ends_exactly_once(first_seed: int, are_jobs_first: bool) -> None:
    for seed in range(first_seed, first_seed + SEEDS_EACH):
        chaos = Chaos(seed, are_jobs_first)
        try:
            for _ in range(150):
                chaos.step()
            chaos.settle()
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


def test_a_cold_call_takes_the_warm_pod_and_a_warm_call_takes_no_decision() -> None:
    chaos = Chaos(0, False)
    driven = chaos.driven
    driven(PodConnected("pod-1", 1))
    driven(FunctionDefined("fn", spec()))
    actions = driven(RequestArrived("a", "link", "fn"))
    assert [type(action) for action in actions] == [BindPod, StartPod]  # the second refills the pool
    assert only(driven(ExecutorReady("pod-1", "fn", 1)), SendTask).pod_id == "pod-1"
    driven(TaskFinished("task-1", 1, OK, 1.0))
    assert [type(action) for action in driven(RequestArrived("b", "link", "fn"))] == [SendTask]
    assert [type(action) for action in driven(TaskFinished("task-2", 1, OK, 1.0))] == [FinishRequest]


def test_a_cold_model_request_starts_both_pods_at_once() -> None:
    driven = Chaos(0, True).driven
    assert driven(ControllerStarted()) == []
    actions = driven(RequestArrived("a", "link", "fn-model"))
    assert {start.environment for start in of_type(actions, StartPod)} == {"tokenizer", "flowserve"}
