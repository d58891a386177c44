"""A pod that says that it ends by itself."""

from __future__ import annotations

from deepserve.protocol.messages import Outcome
from deepserve_controller.core.actions import FinishRequest, SendTask
from deepserve_controller.core.events import DemandChanged, PodDrained, PodEnding, PodLost, PodStuck, RequestArrived
from tests.unit.deepserve_controller.harness import Cluster, Jobs, news, of_type, only


def test_it_gets_nothing_new_and_others_take_its_place(jobs: Jobs) -> None:
    jobs.define()
    jobs.pod()
    jobs(RequestArrived("first", "link", "fn"))
    assert news(jobs(PodEnding("pod-1", "too large")), PodStuck) == [PodStuck("pod-1", "too large")]
    assert not jobs(PodEnding("pod-1", "too large")), "it is said once"
    actions = jobs.finish("task-1", outcome=Outcome("error", "MemoryError"))
    assert only(actions, FinishRequest).request_id == "first" and news(actions, PodDrained)
    actions = jobs(RequestArrived("second", "link", "fn"))
    assert not of_type(actions, SendTask) and news(actions, DemandChanged)[0].queued == 1
    assert only(jobs.pod("pod-2"), SendTask).request_id == "second"
    assert jobs(PodLost("pod-1", "killed", -9)) == []


def test_what_it_was_given_and_had_not_begun_runs_elsewhere(jobs: Jobs) -> None:
    jobs.define(max_inputs=2)
    jobs.pod(slots=2)
    jobs(RequestArrived("first", "link", "fn"))
    jobs(RequestArrived("second", "link", "fn"))
    jobs(PodEnding("pod-1", "too large"))
    jobs.finish("task-1", outcome=Outcome("error", "MemoryError"))
    assert not of_type(jobs(PodLost("pod-1", "killed", -9)), FinishRequest)
    assert only(jobs.pod("pod-2"), SendTask).request_id == "second"


def test_one_that_is_not_known_is_no_matter(jobs: Jobs, cluster: Cluster) -> None:
    assert jobs(PodEnding("pod-9", "too large")) == cluster(PodEnding("pod-9", "too large")) == []
