"""A server whose engine is sent to sleep and woken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Client = Callable[..., Any]
ASKED = {"prompt": "Once upon", "max_tokens": 6, "temperature": 0}


def test_sleep_and_wake(client: Client) -> None:
    each = client(allow_sleep=True)
    expected = each.post("/v1/completions", json=ASKED).json()["choices"]
    assert each.get("/is_sleeping").json() == {"is_sleeping": False}
    for query in ("", "?level=1", "?level=2"):
        assert each.post(f"/sleep{query}").status_code == 200
        assert each.get("/is_sleeping").json() == {"is_sleeping": True}
        assert each.get("/health").status_code == 503
        refused = each.post("/v1/completions", json=ASKED)
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "asleep"
        assert each.post("/tokenize", json={"prompt": "a"}).status_code == 200
        assert each.post("/wake_up").status_code == 200
        assert each.get("/is_sleeping").json() == {"is_sleeping": False}
        assert each.get("/health").status_code == 200
        assert each.post("/v1/completions", json=ASKED).json()["choices"] == expected


def test_what_is_refused(client: Client) -> None:
    each = client(allow_sleep=True)
    for level in ("0", "3", "deep", ""):
        answer = each.post(f"/sleep?level={level}")
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "level"
    assert each.get("/sleep").status_code == 405
    assert each.get("/is_sleeping").json() == {"is_sleeping": False}


def test_it_does_not_sleep_while_somebody_waits(client: Client) -> None:
    each = client(allow_sleep=True)
    long = {**ASKED, "max_tokens": 300, "stream": True, "ignore_eos": True}
    with each.stream("POST", "/v1/completions", json=long) as stream:
        lines = stream.iter_lines()
        next(lines)
        answer = each.post("/sleep")
        assert answer.status_code in (200, 409)  # the stream may have ended meanwhile: its texts wait for their reader
        rest = list(lines)
    assert any("[DONE]" in line for line in rest)
    if answer.status_code == 409:
        assert "1 requests go on" in answer.json()["error"]["message"]
        assert each.get("/is_sleeping").json() == {"is_sleeping": False}


def test_it_needs_the_key(client: Client) -> None:
    each = client(api_key="secret", allow_sleep=True)
    for path in ("/sleep", "/wake_up"):
        assert each.post(path).status_code == 401
    assert each.get("/is_sleeping").status_code == 401


def test_without_leave_nobody_sends_it_to_sleep(client: Client) -> None:
    each = client()
    for answer in (each.post("/sleep"), each.post("/wake_up"), each.get("/is_sleeping")):
        assert answer.status_code == 404
    assert each.post("/v1/completions", json=ASKED).status_code == 200
