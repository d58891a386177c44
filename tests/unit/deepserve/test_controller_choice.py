"""Which controller is found, and how one that is none is refused."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepserve import _context, _controller_choice, _current_client, _running_controller, settings
from deepserve._client import Client
from deepserve._controller_choice import Choice, connect, init
from deepserve._frame_link import refusal_of
from deepserve._running_controller import check_owner, is_listening
from deepserve.errors import (
    ControllerUnreachable,
    DeepServeError,
    InvalidOption,
    ProtocolError,
    StateFolderInUse,
)
from deepserve.protocol.framing import encode_frame
from deepserve.protocol.messages import LogOutput, Message, Refused, Welcome


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(settings, "_settings", settings.Settings(quiet=True))
    monkeypatch.setattr(_controller_choice, "_engine", "")
    monkeypatch.setattr(_controller_choice, "_state", "")
    before = _current_client.installed_client()
    _current_client.install(None)
    yield
    _current_client.install(before)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    (tmp_path / "deepserve").mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "deepserve" / "up.sock"))
        server.listen()
        yield server


def answering(server: socket.socket, answer: bytes) -> None:
    """Send `answer` to the first peer, after its Hello."""

    def serve() -> None:
        connection, _ = server.accept()
        connection.recv(4096)
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(4096)

    threading.Thread(target=serve, daemon=True).start()


def use(url: str) -> None:
    settings.use_settings(settings.Settings(url=url, quiet=True))


def test_the_order_is_init_then_the_variable_then_up_then_embedded(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    up = listener.getsockname()
    assert _controller_choice._choose() == Choice("up", up)
    use("unix:///elsewhere.sock")
    assert _controller_choice._choose() == Choice("url", "/elsewhere.sock")
    init("embedded")
    assert _controller_choice._choose() == Choice("embedded")
    init()
    use("")
    listener.close()
    assert os.path.exists(up) and not is_listening(up)
    assert _controller_choice._choose() == Choice("embedded")


@pytest.mark.parametrize("engine", ["tcp://x", "unix://relative", "cloud"])
def test_other_schemes_name_what_there_is(engine: str) -> None:
    with pytest.raises(InvalidOption, match="use https://host:port, unix:///path, 'up' or 'embedded'"):
        init(engine)
    use(engine)
    with pytest.raises(InvalidOption, match="use https://host:port, unix:///path, 'up' or 'embedded'"):
        connect()


def test_a_state_folder_is_an_embedded_controllers(tmp_path: Path, listener: socket.socket) -> None:
    use("unix:///elsewhere.sock")
    init(state=tmp_path / "s")
    assert _controller_choice._choose() == Choice("embedded") and _controller_choice._state == f"{tmp_path}/s"
    init(state="~/s")
    assert _controller_choice._state == os.path.expanduser("~/s")
    init()
    assert _controller_choice._choose().kind == "url" and _controller_choice._state == ""
    for engine in ("up", "unix:///elsewhere.sock", "https://host:1"):
        with pytest.raises(InvalidOption, match="only an embedded controller takes a folder"):
            init(engine, state="s")
    for wrong in (7, b"s", "s\0", ""):
        with pytest.raises(InvalidOption, match="state"):
            init(state=wrong)  # type: ignore[arg-type]


def test_the_state_folder_of_the_environment_is_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_settings", None)
    monkeypatch.setenv("DEEPSERVE_STATE", "kept/here")
    assert settings.current_settings().state == os.path.abspath("kept/here")
    monkeypatch.setattr(settings, "_settings", None)
    monkeypatch.setenv("DEEPSERVE_STATE", "")
    assert settings.current_settings().state == ""


@pytest.mark.parametrize(
    ("code", "error"),
    [("state_in_use", StateFolderInUse), ("start", ControllerUnreachable), ("garbage", ProtocolError)],
)
def test_a_controller_that_cannot_start_says_why(code: str, error: type[DeepServeError]) -> None:
    refused = refusal_of(Refused(code, "/s is in use"))
    assert type(refused) is error and "/s is in use" in str(refused)


def test_init_comes_before_the_first_remote_call() -> None:
    _current_client.install(Client(lambda *_: None, welcome=None, client_id="x", is_pod=False))
    with pytest.raises(InvalidOption, match=r"init\(engine=...\): .* before the first remote call"):
        init("up")
    with pytest.raises(InvalidOption, match=r"init\(key=..., state=...\): "):
        init(key="k", state="s")


def test_in_a_pod_init_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_context, "importing", "app")  # a template, which has no client yet
    init("up", state="s")
    monkeypatch.setattr(_context, "importing", "")
    _current_client.install(Client(lambda *_: None, welcome=None, client_id="x", is_pod=True))
    init("up")
    init(state="s")
    assert (_controller_choice._engine, _controller_choice._state) == ("", "")


def test_nobody_answers(tmp_path: Path) -> None:
    use(f"unix://{tmp_path}/none.sock")
    with pytest.raises(ControllerUnreachable, match=r"none\.sock"):
        connect()


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ControllerUnreachable, "not a DeepServe frame"),
        (b"", ControllerUnreachable, "closed the connection"),
        (encode_frame(Refused("version", "speaks version 7")), ProtocolError, "speaks version 7"),
        (encode_frame(LogOutput("p", "l", "stdout")), ProtocolError, "no DeepServe controller of this version"),
    ],
)
def test_what_is_no_controller_is_refused(
    listener: socket.socket, answer: bytes, error: type[Exception], text: str
) -> None:
    answering(listener, answer)
    with pytest.raises(error, match=text):
        connect_to(listener)


def connect_to(listener: socket.socket) -> Client:
    use(f"unix://{listener.getsockname()}")
    return connect()


def test_a_silent_peer_is_given_up(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_running_controller, "CONNECT_TIMEOUT_S", 0.1)
    with pytest.raises(ControllerUnreachable, match="timed out"):
        connect_to(listener)


def test_a_controller_is_welcomed(listener: socket.socket, capsys: pytest.CaptureFixture[str]) -> None:
    welcome: Message = Welcome(1, "ctl", "up", folder="/f", segments="/s")
    answering(listener, encode_frame(welcome) + encode_frame(LogOutput("pod-1", "a/f", "stdout"), b"printed\n"))
    settings.use_settings(settings.Settings(url=f"unix://{listener.getsockname()}"))
    client = connect()
    assert client.welcome == welcome and not client.controller.is_embedded
    out, err = "", ""
    gives_up_s = time.monotonic() + 30
    while "printed" not in out and time.monotonic() < gives_up_s:
        time.sleep(0.01)
        more = capsys.readouterr()
        out, err = out + more.out, err + more.err
    assert (out, err) == ("printed\n", f"deepserve: using the controller at {listener.getsockname()}\n")


def test_a_socket_of_somebody_else_is_not_used(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    path = listener.getsockname()
    check_owner(path)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(ControllerUnreachable, match="does not belong to this user"):
        check_owner(path)
    assert not is_listening(path)


def test_a_plain_file_is_no_socket(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ControllerUnreachable):
        check_owner(str(tmp_path / "file"))


def test_elsewhere_than_linux_the_first_call_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ControllerUnreachable, match="need Linux"):
        connect()


def test_settings_are_read_once_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settings.use_settings(None)
    monkeypatch.setenv("DEEPSERVE_QUIET", "1")
    monkeypatch.setenv("DEEPSERVE_MAX_VALUE_BYTES", "100")
    assert settings.current_settings() == settings.Settings(quiet=True, max_value_bytes=100)
    settings.use_settings(None)
    monkeypatch.setenv("DEEPSERVE_MAX_VALUE_BYTES", "1 GB")
    with pytest.raises(InvalidOption, match="DEEPSERVE_MAX_VALUE_BYTES='1 GB'"):
        settings.current_settings()
