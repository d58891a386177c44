"""Values of a client on another host, on their way into segments: no room, wrong order, and what is left."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from deepserve.protocol.framing import Buffer
from deepserve.protocol.messages import (
    FetchValue,
    Message,
    Outcome,
    PutValue,
    RequestFinished,
    StoreRef,
    Timings,
    Value,
    ValueContent,
    ValueStored,
)
from deepserve_controller.errors import Refusal
from deepserve_controller.service.remote_values import INLINE_BYTES, RemoteValues
from deepserve_controller.service.segments import Segments


class Client:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sent: list[tuple[Message, bytes]] = []
        self.values = RemoteValues(Segments(str(folder)), self)

    def send(self, message: Message, payload: Buffer = b"") -> None:
        self.sent.append((message, bytes(payload)))

    def names(self) -> list[str]:
        return sorted(os.listdir(self.folder))


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path)


def test_no_room_is_said_once_and_the_rest_is_ignored(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: Buffer) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    client.values.take(PutValue("u-1", 1_000_000), b"first")
    client.values.take(PutValue("u-1", 1_000_000, 5), b"second")
    [(stored, _)] = client.sent
    assert isinstance(stored, ValueStored) and "1,000,000 bytes" in stored.error and "are free" in stored.error
    assert client.names() == []


def test_a_name_is_given_once(client: Client) -> None:
    for _ in range(2):
        client.values.take(PutValue("u-1", 3), b"abc")
    assert client.sent[0] == (ValueStored("u-1"), b"")
    assert "could not be stored" in client.sent[1][0].error  # type: ignore[attr-defined]
    assert client.names() == ["u-1"]


@pytest.mark.parametrize("pieces", [[(1, b"x")], [(0, b"ab"), (1, b"c")], [(0, b"ab"), (3, b"c")], [(0, b"abcd")]])
def test_pieces_that_do_not_follow_each_other(client: Client, pieces: list[tuple[int, bytes]]) -> None:
    try:
        for offset, piece in pieces:
            client.values.take(PutValue("u-1", 3, offset), piece)
    except Refusal as refusal:
        assert refusal.code == "garbage"
    assert client.sent == []
    client.values.close()
    assert client.names() == []


def test_what_a_message_named_is_no_longer_the_links(client: Client) -> None:
    for name in ("u-1", "r-1", "r-2"):
        client.values.take(PutValue(name, 1), b"x")
    assert not client.values.take(StoreRef("r-1", Value("pickle", 1, segment="r-1")), b"")
    client.values.close()
    assert client.names() == ["r-1"]


def test_small_results_go_with_their_message_and_large_ones_wait(client: Client) -> None:
    finished = RequestFinished("rq-1", Outcome("ok"), Timings(), Value("pickle", 3, segment="v-1-a"))
    (client.folder / "v-1-a").write_bytes(b"abc and what was there before")
    message, payload = client.values.with_content(finished, b"")
    assert (message.value.segment, payload) == ("", b"abc")  # type: ignore[attr-defined]
    assert client.names() == []
    large = RequestFinished("rq-1", Outcome("ok"), Timings(), Value("pickle", INLINE_BYTES + 1, segment="v-1-b"))
    assert client.values.with_content(large, b"") == (large, b"")
    (client.folder / "v-1-b").write_bytes(bytes(INLINE_BYTES + 1))
    client.values.take(FetchValue(1, "v-1-b", INLINE_BYTES, 1, unlink=True), b"")
    assert client.sent == [(ValueContent(1, INLINE_BYTES), b"\0")]
    assert client.names() == []


def test_values_on_their_way_take_no_descriptors(client: Client) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(100):
        client.values.take(PutValue(f"u-{number}", 10), b"begun")
    assert len(os.listdir("/proc/self/fd")) == before
    client.values.take(PutValue("u-7", 10, 5), b"ended")
    assert (client.folder / "u-7").read_bytes() == b"begunended"
    client.values.close()
    assert client.names() == []
