"""Clients on other hosts: the frames of a socket over a WebSocket, and who may not come in."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from deepserve.protocol.framing import encode_frame
from deepserve.protocol.messages import (
    CancelRequest,
    DropValue,
    FetchValue,
    Hello,
    LogOutput,
    MapEnd,
    Message,
    PutValue,
    Refused,
    StreamItems,
    Value,
    ValueContent,
    ValueStored,
    Welcome,
)
from tests.integration.controller.peers import Client, Controller
from tests.integration.controller.test_handshake import BAD_BYTES, expect_refusal
from tests.integration.controller.web_peers import dial_web, key_of, open_websocket, url_of
from tests.waiting import TIMEOUT_S, wait_for


@pytest.fixture(scope="module")
def up() -> Iterator[Controller]:
    with tempfile.TemporaryDirectory(prefix="ds-") as name:
        controller = Controller(Path(name), embedded=False)
        try:
            yield controller.wait_until_up()
            key = key_of(controller)
            controller.stop()
            assert "Traceback" not in controller.said(), controller.said()
            assert "handshake" not in controller.said(), "who is refused has been answered"
            assert key not in controller.said()
        finally:
            controller.kill()


def welcomed(up: Controller, name: str = "far", cut_bytes: int = 1 << 20) -> Client:
    client = dial_web(up, cut_bytes).hello(name=name)
    welcome, _ = client.expect(Welcome)
    assert (welcome.mode, welcome.segments) == ("up", "")
    return client


def segments_of(up: Controller) -> Path:
    near = up.dial()
    near.close()
    return Path(up.welcome.segments)


def names_in(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name != ".owner"]


# --- what a client on this host may, one elsewhere may too -----------------------------------------------


@pytest.mark.parametrize("cut_bytes", [1, 7, 1 << 20])
def test_a_call_and_its_result_however_the_bytes_are_cut(up: Controller, cut_bytes: int) -> None:
    client = welcomed(up, cut_bytes=cut_bytes)
    function = client.define("echo")
    payload = os.urandom(300 if cut_bytes < 10 else 3_000_000)
    client.open(f"rq-cut-{cut_bytes}", function, payload=payload)
    finished, content = client.finished(f"rq-cut-{cut_bytes}")
    assert (finished.outcome.kind, content) == ("ok", payload)
    assert client.query("status").body["mode"] == "up"
    client.close()


def test_streams_and_output(up: Controller) -> None:
    client = welcomed(up)
    client.open("rq-web-stream", client.define("stream"), "stream", b"5", kind="stream")
    assert [client.expect(StreamItems)[1] for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
    client.finished("rq-web-stream")
    client.open("rq-web-print", client.define("print"), "print", b"seen from afar\n")
    assert client.expect(LogOutput)[1] == b"seen from afar\n"
    client.finished("rq-web-print")
    client.close()


def test_a_client_that_is_gone_is_like_a_closed_socket(up: Controller) -> None:
    client, other = welcomed(up), up.dial()
    client.open("rq-web-hang", client.define("hang"), "hang")
    wait_for(lambda: other.query("result_info", request_id="rq-web-hang").body.get("pod_id"))
    client.socket.connection.socket.close()  # type: ignore[attr-defined]  # without a goodbye
    wait_for(lambda: other.query("result_info", request_id="rq-web-hang").body["state"] == "cancelled")
    other.close()


def test_cancelling(up: Controller) -> None:
    client = welcomed(up)
    client.open("rq-web-cancel", client.define("hang-too"), "hang")
    client.send(CancelRequest("rq-web-cancel", force=True))
    assert client.finished("rq-web-cancel")[0].outcome.kind == "cancelled"
    client.close()


# --- values -----------------------------------------------------------------------------------------------


def test_a_value_is_stored_in_pieces_and_fetched_in_pieces(up: Controller) -> None:
    client, folder = welcomed(up, "abc"), segments_of(up)
    for at in (0, 4):
        client.send(PutValue("r-abc-1", 8, at), b"four" if at else b"one ")
    assert client.expect(ValueStored)[0] == ValueStored("r-abc-1")
    assert (folder / "r-abc-1").read_bytes() == b"one four"
    client.send(FetchValue(1, "r-abc-1", 4, 4))
    assert client.expect(ValueContent) == (ValueContent(1, 4), b"four")
    client.send(FetchValue(2, "r-abc-1", 4, 5))
    assert client.expect(ValueContent)[0].error
    client.send(DropValue("r-abc-1"))
    client.send(FetchValue(3, "r-abc-1", 0, 4))
    assert "gone" in client.expect(ValueContent)[0].error
    client.close()


def test_a_small_segment_comes_with_its_message(up: Controller) -> None:
    client, folder = welcomed(up), segments_of(up)
    (folder / "v-1-x").write_bytes(b"\xa4four")
    client.open("rq-web-segment", client.define("segment"), "segment", b"v-1-x")
    finished, content = client.finished("rq-web-segment")
    assert (finished.value.segment, content) == ("", b"\xa4four")
    assert not (folder / "v-1-x").exists()
    client.close()


def test_nothing_of_a_client_that_left_stays(up: Controller) -> None:
    client, folder = welcomed(up, "gone"), segments_of(up)
    before = set(names_in(folder))
    client.send(PutValue("u-unfinished", 100), b"x")
    client.send(PutValue("u-unnamed", 1), b"x")
    client.send(PutValue("r-gone-1", 1), b"x")
    client.send(PutValue("u-argument", 1), b"x")
    client.open("rq-web-argument", client.define("hang-on"), "hang", value=Value("msgpack", 1, segment="u-argument"))
    wait_for(lambda: len(set(names_in(folder)) - before) == 4)
    client.close()
    wait_for(lambda: set(names_in(folder)) <= before)


@pytest.mark.parametrize(
    "message",
    [
        PutValue("../evil", 1),
        PutValue("r-other-1", 1),
        PutValue(".hidden", 1),
        PutValue("v-1-2", 1),
        PutValue("u-overlong", 1),
        FetchValue(1, "u-x", -1, 1),
        FetchValue(1, "u-x", 0, 1 << 30),
        FetchValue(1, "u-x", 0, 0),
    ],
    ids=lambda message: str(message)[:40],
)
def test_strange_values_are_refused(up: Controller, message: Message) -> None:
    client = welcomed(up, "strange")
    client.send(message, b"xx" if isinstance(message, PutValue) else b"")
    expect_refusal(client, "garbage")


# --- who may not come in ------------------------------------------------------------------------------------

WRONG_KEYS: dict[str, dict[str, str]] = {
    "none": {},
    "empty": {"Authorization": ""},
    "no scheme": {"Authorization": "KEY"},
    "another scheme": {"Authorization": "Basic KEY"},
    "another key": {"Authorization": "Bearer " + "x" * 43},
    "half of it": {"Authorization": "Bearer HALF"},
    "not ascii": {"Authorization": "Bearer \xff\xfe"},
    "in a cookie": {"Cookie": "key=KEY"},
}


@pytest.mark.parametrize("what", WRONG_KEYS)
def test_without_the_key_nothing_is_upgraded(up: Controller, what: str) -> None:
    key = key_of(up)
    headers = {name: text.replace("KEY", key).replace("HALF", key[:20]) for name, text in WRONG_KEYS[what].items()}
    with pytest.raises(InvalidStatus) as refusal:
        open_websocket(up, additional_headers=headers)
    assert refusal.value.response.status_code == 401
    assert key not in refusal.value.response.body.decode()


def test_a_client_may_leave_before_it_says_hello(up: Controller) -> None:
    """What its end leaves in the log is looked at when the controller has ended."""
    with open_websocket(up) as websocket:
        websocket.close()


@pytest.mark.parametrize("path", ["/v1/link?key={}", "/v1/link?access_token={}", "/v1/link?authorization=Bearer%20{}"])
def test_a_key_in_the_address_is_none(up: Controller, path: str) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        open_websocket(up, path.format(key_of(up)), additional_headers={})
    assert refusal.value.response.status_code == 401


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1"])
def test_a_page_in_a_browser_is_turned_away_with_the_key_too(up: Controller, origin: str) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        open_websocket(up, origin=origin)
    assert refusal.value.response.status_code == 403


def test_other_paths_are_no_links(up: Controller) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        open_websocket(up, "/v1/other")
    assert refusal.value.response.status_code in (403, 404)


@pytest.mark.parametrize("what", BAD_BYTES)
@pytest.mark.parametrize("is_welcome", [False, True])
def test_what_is_no_frame_is_refused(up: Controller, what: str, is_welcome: bool) -> None:
    data, code = BAD_BYTES[what]
    client = welcomed(up) if is_welcome else dial_web(up)
    client.socket.sendall(data)
    expect_refusal(client, code)
    assert up.dial().query("status").error == ""


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        ({"version": 99}, "version"),
        ({"role": "pod", "name": "pod-1", "key": "k"}, "key"),
        ({"role": "log", "name": "pod-1/stdout", "key": "k"}, "key"),
    ],
)
def test_hellos_that_are_not_accepted(up: Controller, hello: dict[str, Any], code: str) -> None:
    expect_refusal(dial_web(up).hello(**hello), code)


def test_frames_that_are_not_for_a_client_to_say(up: Controller) -> None:
    client = dial_web(up)
    client.send(MapEnd("rq-1", 0))
    assert "before Hello" in expect_refusal(client, "garbage")
    client = welcomed(up)
    client.send(Hello(1, "client", "again"))
    expect_refusal(client, "garbage")


def test_text_messages_are_refused(up: Controller) -> None:
    client = welcomed(up)
    client.socket.connection.send("text")  # type: ignore[attr-defined]
    expect_refusal(client, "garbage")


def test_a_message_beyond_the_bound_ends_the_link(up: Controller) -> None:
    connection = open_websocket(up)
    connection.send(encode_frame(Hello(1, "client", "big")))
    connection.recv(10)
    with pytest.raises(ConnectionClosed) as closed:
        connection.send(bytes(5 << 20))
        connection.recv(10)
    assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
    assert up.dial().query("status").error == ""


def test_who_knows_no_key_learns_nothing_from_a_get(up: Controller) -> None:
    import urllib.error
    import urllib.request

    with pytest.raises(urllib.error.HTTPError) as answer:
        urllib.request.urlopen(url_of(up) + "/v1/link", timeout=TIMEOUT_S)
    assert answer.value.code == 404
    assert Refused.__name__ not in answer.value.read().decode()
