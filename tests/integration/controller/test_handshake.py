"""Who may come in, and that nobody else notices who may not."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from deepserve.protocol.framing import MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES, PREFIX
from deepserve.protocol.messages import Hello, LogOutput, MapEnd, Outcome, Refused, TaskFinished, Welcome
from tests.integration.controller.peers import Client, Controller

BAD_BYTES = {
    "garbage": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "garbage"),
    "version": (PREFIX.pack(b"DS", 9, 1, 0) + b"x", "version"),
    "header too large": (PREFIX.pack(b"DS", 1, MAX_HEADER_BYTES + 1, 0), "too_large"),
    "payload too large": (PREFIX.pack(b"DS", 1, 1, MAX_PAYLOAD_BYTES + 1), "too_large"),
    "no message": (PREFIX.pack(b"DS", 1, 1, 0) + b"\xc1", "garbage"),
    "deep": (PREFIX.pack(b"DS", 1, 5000, 0) + b"\x91" * 5000, "garbage"),
}


def expect_refusal(client: Client, code: str) -> str:
    refused, _ = client.expect(Refused)
    assert refused.code == code
    with pytest.raises((EOFError, ConnectionError)):
        client.next()
    client.close()
    return refused.text


@pytest.mark.parametrize("what", BAD_BYTES)
def test_what_is_no_frame_is_refused(shared: Controller, what: str) -> None:
    data, code = BAD_BYTES[what]
    client = Client.dial(shared.socket)
    client.socket.sendall(data)
    expect_refusal(client, code)
    assert shared.owner.query("status").body["mode"] == "embedded"


def test_a_bad_frame_of_a_welcomed_client_ends_its_link_only(shared: Controller) -> None:
    client = Client.dial(shared.socket).hello()
    client.expect(Welcome)
    client.socket.sendall(b"x" * 100)
    expect_refusal(client, "garbage")
    assert shared.owner.query("status").error == ""


def test_a_client_does_not_speak_for_a_pod(shared: Controller) -> None:
    client = Client.dial(shared.socket).hello()
    client.send(TaskFinished("task-1", 1, Outcome("ok"), 1.0))
    client.expect(Welcome)
    expect_refusal(client, "garbage")


def test_another_version_is_refused_with_both_versions(shared: Controller) -> None:
    text = expect_refusal(Client.dial(shared.socket).hello(version=2), "version")
    assert "2" in text and "1" in text


def test_hello_comes_first(shared: Controller) -> None:
    client = Client.dial(shared.socket)
    client.send(MapEnd("rq-1", 1))
    expect_refusal(client, "garbage")


def test_a_pod_needs_a_token(shared: Controller) -> None:
    expect_refusal(Client.dial(shared.socket).hello(role="pod", name="pod-1", key="wrong"), "key")
    expect_refusal(Client.dial(shared.socket).hello(role="pod", name="pod-999", key=""), "key")
    expect_refusal(Client.dial(shared.socket).hello(role="log", name="pod-1/stdout", key="wrong"), "key")
    expect_refusal(Client.dial(shared.socket).hello(role="log", name="nonsense", key="x"), "key")


def test_a_hello_in_single_bytes(shared: Controller) -> None:
    from deepserve.protocol.framing import encode_frame

    client = Client.dial(shared.socket)
    for byte in encode_frame(Hello(1, "client", "slow")):
        client.socket.sendall(struct.pack("B", byte))
    assert client.expect(Welcome)[0].folder == shared.welcome.folder
    client.close()


def test_the_socket_is_private(shared: Controller) -> None:
    assert os.stat(shared.socket).st_mode & 0o777 == 0o600
    for folder in (shared.welcome.folder, shared.welcome.segments, shared.runtime):
        assert os.stat(folder).st_mode & 0o777 == 0o700
    assert Path(shared.welcome.segments).parent == Path("/dev/shm")


def test_output_is_not_for_a_client_to_say(shared: Controller) -> None:
    client = Client.dial(shared.socket).hello()
    client.expect(Welcome)
    client.send(LogOutput("pod-1", "x", "stdout"), b"fake")
    expect_refusal(client, "garbage")
