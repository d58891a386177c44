"""What is told of requests that have ended."""

from __future__ import annotations

from deepserve.protocol.messages import Outcome, Timings
from deepserve_controller.core.actions import FinishRequest
from deepserve_controller.core.events import NO_PAYLOAD
from deepserve_controller.service.recent_requests import NUM_RECENT, RecentRequests
from deepserve_controller.service.request_record import RequestRecord


def ended(recent: RecentRequests, request_id: str) -> None:
    record = RequestRecord(request_id, "link", "link", "fn", "app/f", "call", "", keep=False, arrived_at=1.0)
    timings = Timings(pod_id="pod-1", queued_ms=2.0)
    action = FinishRequest(
        link_id="link", request_id=request_id, outcome=Outcome("ok"), timings=timings, payload=NO_PAYLOAD, keep=False,
        count=0,
    )  # fmt: skip
    recent.note(record, action, route="pod-1: least load")


def test_the_latest_requests_are_found_and_the_oldest_forgotten() -> None:
    recent = RecentRequests()
    for number in range(NUM_RECENT + 1):
        ended(recent, f"rq-{number}")
    assert recent.find("rq-0") is None
    found = recent.find("rq-1")
    assert found is not None and (found["pod_id"], found["queued_ms"]) == ("pod-1", 2.0)
    assert found["route"] == "pod-1: least load" and found["state"] == "ok"
    assert [record["request_id"] for record in recent.latest(2)] == [f"rq-{NUM_RECENT - 1}", f"rq-{NUM_RECENT}"]
    assert recent.latest(0) == [] and len(recent.latest(NUM_RECENT + 5)) == NUM_RECENT
