"""Both cores wired together, under random events: every request ends exactly once, and nothing is left over."""

from __future__ import annotations

from random import Random

import pytest

from deepserve.protocol.ids import IdAllocator
from deepserve_controller.build import build_cluster_manager, build_job_executor
from deepserve_controller.core import events
from deepserve_controller.core.actions import BindPod, FinishRequest, SendTask, StartPod, StartTemplate
from deepserve_controller.core.cores import Cores
from deepserve_controller.core.events import (
    ControllerStarted,
    Event,
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


def test_every_event_is_taken_by_the_core_that_it_is_for() -> None:
    """Which `handle` passes over what it does not know: a forgotten line in a table would be silence."""
    kinds = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)]
    jobs, pods = build_job_executor(IdAllocator(), Random(1)), build_cluster_manager(IdAllocator(), 8)
    taken = jobs._handlers.keys() | pods._handlers.keys()
    assert {kind.__name__ for kind in kinds if kind is not Event and kind not in taken} == set()
    assert jobs._handlers.keys() & pods._handlers.keys() == {
        events.FunctionDefined,
        events.FunctionRemoved,
        events.ExecutorReady,
        events.ExecutorFailed,
        events.PodLost,
        events.PodStartFailed,
        events.TimerFired,
    }
    tables = (jobs._of_requests(), jobs._of_tasks(), jobs._of_pods())
    assert sum(map(len, tables)) == len(jobs._handlers), "no table takes another's events"


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


def test_what_others_wait_for_leaves_before_the_cluster_manager_hears_of_it() -> None:
    cores = Cores(build_job_executor(IdAllocator(), Random(1)), build_cluster_manager(IdAllocator(), 8))
    for event in (FunctionDefined("fn", spec()), ControllerStarted(), PodConnected("pod-1", 1)):
        cores.handle(event, 0.0)
    cores.handle(RequestArrived("a", "link", "fn"), 0.0)
    cores.handle(ExecutorReady("pod-1", "fn", 1), 0.0)
    cores.handle(TaskFinished("task-1", 1, OK, 1.0), 0.0)

    def is_busy_at(event: Event) -> list[tuple[type, bool]]:
        """At each action as it comes, and at the end."""
        manager = cores.cluster_manager
        seen = [(type(action), manager.pods_view()[0].is_busy) for action in cores.actions(event, 1.0)]
        return [*seen, (type(None), manager.pods_view()[0].is_busy)]

    assert is_busy_at(RequestArrived("b", "link", "fn")) == [(SendTask, False), (type(None), True)]
    assert is_busy_at(TaskFinished("task-2", 1, OK, 1.0)) == [(FinishRequest, True), (type(None), False)]


def test_a_cold_model_request_starts_its_tokenizer_and_the_models_template_at_once() -> None:
    driven = Chaos(0, True).driven
    assert driven(ControllerStarted()) == []
    actions = driven(RequestArrived("a", "link", "fn-model"))
    assert [start.environment for start in of_type(actions, StartPod)] == ["tokenizer"]
    assert [start.spec.environment for start in of_type(actions, StartTemplate)] == ["flowserve"]
