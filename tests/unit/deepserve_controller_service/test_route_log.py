"""Why requests of models went where they went: kept for a while, told on demand."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest

from deepserve.protocol.messages import Value
from deepserve_controller.core.actions import SendTask
from deepserve_controller.core.events import Payload
from deepserve_controller.errors import ControllerError
from deepserve_controller.service.openai.exchange import MAX_HEADER_CHARS, header_text
from deepserve_controller.service.route_log import NUM_ROUTES, RouteLog
from deepserve_controller.settings import log_level

SENT = SendTask(
    "pod-1", "t-1", 1, "rq-1", "job-1", "fn-a", "call", "chat", 0, 0.0, 0, Payload(Value(), b""), route="holds 4 blocks"
)


def sent(**fields: Any) -> SendTask:
    return msgspec.structs.replace(SENT, **fields)


def test_the_latest_route_of_each_request_is_known() -> None:
    log = RouteLog()
    for action in (
        SENT,
        sent(request_id="rq-2", function_id="fn-b"),
        sent(request_id="rq-3"),
        sent(attempt=2, pod_id="pod-2", route="least loaded"),
        sent(request_id="rq-4", route=""),
    ):
        log.note(action)
    assert log.text_of("rq-1") == "pod-2: least loaded" and log.text_of("rq-3") == "pod-1: holds 4 blocks"
    assert log.text_of("rq-4") == log.text_of("rq-9") == ""
    assert [(route.request_id, route.attempt) for route in log.latest("fn-a", 9)] == [("rq-1", 2), ("rq-3", 1)]
    assert [route.request_id for route in log.latest("fn-a", 1)] == ["rq-1"]


def test_it_is_bounded() -> None:
    log = RouteLog()
    for number in range(NUM_ROUTES + 1):
        log.note(sent(request_id=f"rq-{number}"))
    assert not log.text_of("rq-0") and log.text_of("rq-1") and log.text_of(f"rq-{NUM_ROUTES}")


def test_each_is_a_line_for_who_wants_to_see_them(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    RouteLog(out).note(SENT)
    assert out.getvalue() == "deepserve: debug: route of rq-1, attempt 1: pod-1: holds 4 blocks\n"
    for level in ("", "debug"):
        monkeypatch.setenv("DEEPSERVE_LOG", level)
        assert log_level() == level
    monkeypatch.setenv("DEEPSERVE_LOG", "loud")
    with pytest.raises(ControllerError, match="DEEPSERVE_LOG='loud'"):
        log_level()


def test_a_header_holds_what_it_may() -> None:
    assert header_text("pod-1: by load alone: KeyError: '\\n\u00e9'\r\nx").isascii()
    assert "\n" not in header_text("a\nb") and "\r" not in header_text("a\rb")
    assert len(header_text("x" * 1000)) == MAX_HEADER_CHARS
