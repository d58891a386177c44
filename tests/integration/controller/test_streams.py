"""Streams frame by frame, on an embedded controller and on that of `up`: who leaves when, and what is left then."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepserve.protocol.messages import (
    AttachRequest,
    GrantCredit,
    LeaveStream,
    StreamItems,
    Welcome,
)
from deepserve.protocol.specs import Scaling
from tests.integration.controller.peers import Client, Controller
from tests.stream_items import all_items, items_in
from tests.waiting import wait_for

STATES = ["before the first item", "in the middle", "without credit", "after the end"]


@pytest.fixture(scope="module", params=["embedded", "up"])
def controller(request: pytest.FixtureRequest) -> Iterator[Controller]:
    with tempfile.TemporaryDirectory(prefix="ds-") as name:
        made = Controller(Path(name), embedded=request.param == "embedded")
        try:
            if request.param == "up":
                made.wait_until_up()
                made.dial().close()
            yield made
            made.stop()
            assert "Traceback" not in made.said(), made.said()
        finally:
            made.kill()


def client(controller: Controller) -> Client:
    made = Client.dial(controller.socket).hello()
    made.expect(Welcome)
    return made


def offsets_of(reader: Client, count: int, number: int = 0) -> list[int]:
    """Of the next items that this reader gets."""
    found: list[int] = []
    while len(found) < count:
        message, payload = reader.expect(StreamItems, lambda message: message.reader == number)
        for offset, _, data in items_in(message, payload):
            assert data == b"%d" % offset
            found.append(offset)
    return found


def open_stream(owner: Client, name: str, state: str, keep: bool) -> None:
    function = owner.define("streams", scaling=Scaling(max_pods=3, max_inputs=1))
    if state == "before the first item":
        owner.open(name, function, "hang", kind="stream", keep=keep)
    else:
        owner.open(name, function, "stream", b"5" if state == "after the end" else b"200", kind="stream", keep=keep)
    if keep:
        owner.send(AttachRequest(name, 0, 1))
    if state == "in the middle":
        offsets_of(owner, 3, int(keep))
        owner.send(GrantCredit(name, 3, 3, int(keep)))
    elif state == "without credit":
        offsets_of(owner, 64, int(keep))
    elif state == "after the end":
        assert owner.finished(name)[0].count == 5
    else:
        wait_for(lambda: owner.query("result_info", request_id=name).body.get("state") == "running")


@pytest.mark.parametrize("state", STATES)
def test_a_client_that_leaves_ends_a_stream_that_is_not_kept(controller: Controller, state: str) -> None:
    watcher, owner = client(controller), client(controller)
    name = f"rq-plain-{state.replace(' ', '-')}"
    open_stream(owner, name, state, keep=False)
    owner.close()
    wanted = "ok" if state == "after the end" else "cancelled"
    wait_for(lambda: watcher.query("result_info", request_id=name).body.get("state") == wanted)
    for number in range(3):  # its pod is free again
        watcher.open(f"{name}-{number}", watcher.define("streams", scaling=Scaling(max_pods=3, max_inputs=1)))
        assert watcher.finished(f"{name}-{number}")[0].outcome.is_ok
    watcher.close()


@pytest.mark.parametrize("state", STATES[1:])
def test_a_kept_stream_is_read_on_by_the_next_process(controller: Controller, state: str) -> None:
    owner, other = client(controller), client(controller)
    name = f"rq-kept-{state.replace(' ', '-')}"
    open_stream(owner, name, state, keep=True)
    owner.close()
    count = 5 if state == "after the end" else 200
    other.send(AttachRequest(name, 2, 9))
    offset = 2
    while offset < count:
        got = offsets_of(other, 1, 9)
        assert got == list(range(offset, offset + len(got)))
        offset += len(got)
        other.send(GrantCredit(name, len(got), len(got), 9))
    assert other.finished(name)[0].count == count
    other.close()


def test_two_attached_clients_get_all_of_it_whoever_leaves(controller: Controller) -> None:
    owner, first, second = client(controller), client(controller), client(controller)
    open_stream(owner, "rq-both", "without credit", keep=True)
    first.send(AttachRequest("rq-both", 0, 1))
    second.send(AttachRequest("rq-both", 60, 1))
    assert offsets_of(first, 64, 1) == list(range(64))
    assert offsets_of(second, 4, 1) == list(range(60, 64))
    owner.close()
    first.send(GrantCredit("rq-both", 64, 64, 1))
    assert offsets_of(first, 64, 1) == list(range(64, 128))
    assert offsets_of(second, 60, 1) == list(range(64, 124))  # its window is full
    first.close()
    second.send(GrantCredit("rq-both", 64, 64, 1))
    assert offsets_of(second, 64, 1) == list(range(124, 188))
    second.send(GrantCredit("rq-both", 64, 64, 1))
    assert offsets_of(second, 12, 1) == list(range(188, 200))
    assert second.finished("rq-both")[0].outcome.is_ok
    second.close()


def test_one_client_reads_twice_and_leaves_once(controller: Controller) -> None:
    owner = client(controller)
    open_stream(owner, "rq-twice", "without credit", keep=True)
    owner.send(AttachRequest("rq-twice", 0, 2))
    assert offsets_of(owner, 64, 2) == list(range(64))
    owner.send(LeaveStream("rq-twice", 1))
    owner.send(LeaveStream("rq-twice", 1))
    owner.send(GrantCredit("rq-twice", 64, 64, 1))  # of one that has left
    owner.send(GrantCredit("rq-twice", 10, 10, 2))
    assert offsets_of(owner, 10, 2) == list(range(64, 74))
    owner.query("status")
    assert all_items(owner.waiting) == []
    owner.close()


def test_nonsense_about_streams_harms_nobody(controller: Controller) -> None:
    owner = client(controller)
    for message in (
        AttachRequest("rq-nobody", 0, 1),
        GrantCredit("rq-nobody", 5, 5, 1),
        LeaveStream("rq-nobody", 1),
    ):
        owner.send(message)
    assert owner.finished("rq-nobody")[0].outcome.kind == "refused"
    open_stream(owner, "rq-sane", "without credit", keep=True)
    owner.send(GrantCredit("rq-sane", -5, -5, 1))
    owner.send(AttachRequest("rq-sane", -7, 3))
    assert offsets_of(owner, 64, 3) == list(range(64))
    owner.send(AttachRequest("rq-sane", 1 << 40, 4))
    assert owner.query("status").body
    owner.close()
