"""The HTTP port with a certificate, and the SDK's way to it."""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from deepserve import _distant_controller, settings
from deepserve._client import Client
from deepserve._distant_controller import connect_distant
from deepserve._segments import SegmentGone, distant
from deepserve.errors import ControllerLost, ControllerUnreachable, InvalidOption, KeyRefused
from tests.integration.controller.peers import Controller
from tests.integration.controller.web_peers import key_of, url_of, write_certificate
from tests.waiting import TIMEOUT_S, wait_for


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA) -> Iterator[str]:
    with authority.cert_pem.tempfile() as path:
        yield path


def start(folder: Path, authority: trustme.CA, host: str = "127.0.0.1") -> Controller:
    certificate, key = write_certificate(folder, authority, host)
    return Controller(folder, "--tls-cert", certificate, "--tls-key", key, embedded=False).wait_until_up()


@pytest.fixture(scope="module")
def up(authority: trustme.CA) -> Iterator[Controller]:
    with tempfile.TemporaryDirectory(prefix="ds-") as name:
        controller = start(Path(name), authority)
        try:
            yield controller
            controller.stop()
            assert "Traceback" not in controller.said(), controller.said()
        finally:
            controller.kill()


@pytest.fixture(autouse=True)
def trusted(ca_file: str) -> Iterator[None]:
    settings.use_settings(settings.Settings(quiet=True, ca=ca_file))
    yield
    settings.use_settings(None)


def connected(up: Controller, key: str | None = None) -> Client:
    return connect_distant(url_of(up), key_of(up) if key is None else key)


def test_a_client_that_trusts_the_certificate(up: Controller) -> None:
    assert url_of(up).startswith("https://127.0.0.1:")
    client = connected(up)
    assert client.query("status")["mode"] == "up"
    assert client.controller.segments() in distant


def test_an_unknown_authority_is_not_trusted(up: Controller) -> None:
    settings.use_settings(settings.Settings(quiet=True))
    with pytest.raises(ControllerUnreachable, match="is not trusted.*DEEPSERVE_CA"):
        connected(up)


def test_a_certificate_of_another_host_is_not_trusted(authority: trustme.CA) -> None:
    with tempfile.TemporaryDirectory(prefix="ds-") as name:
        other = start(Path(name), authority, "elsewhere.example")
        try:
            with pytest.raises(ControllerUnreachable, match="is not trusted"):
                connected(other)
        finally:
            other.kill()


def test_a_file_of_certificates_that_is_none(up: Controller, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for path in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        settings.use_settings(settings.Settings(quiet=True, ca=str(path)))
        with pytest.raises(InvalidOption, match="DEEPSERVE_CA"):
            connected(up)


def test_wrong_keys(up: Controller) -> None:
    secret = "z" * 43
    with pytest.raises(KeyRefused, match="does not accept this key") as refusal:
        connected(up, secret)
    assert secret not in str(refusal.value) and "/v1" not in str(refusal.value)
    with pytest.raises(
        KeyRefused, match="does not accept this key, which looks like one of `deepserve token new`.*/v1"
    ):
        connected(up, f"sk-{secret}")
    with pytest.raises(KeyRefused, match="wants a key"):
        connected(up, "")
    with pytest.raises(InvalidOption, match="no key has"):
        connected(up, f"{secret}\r\nX-Other: 1")


def test_what_is_no_controller_of_ours(up: Controller) -> None:
    with pytest.raises(ControllerUnreachable):
        connect_distant(url_of(up).replace("https", "http"), key_of(up))
    with pytest.raises(ControllerUnreachable):
        connect_distant("https://127.0.0.1:1", "k" * 43)


def test_many_threads_read_and_write_one_encrypted_link(up: Controller) -> None:
    client = connected(up)
    segments, failures = distant[client.controller.segments()], []
    content = bytes(range(256)) * 20_000

    def work(number: int) -> None:
        try:
            for _ in range(3):
                name = segments.write([content[number:], content[:number]], len(content), f"r-{client.client_id}")
                assert client.query("status")["mode"] == "up"
                assert segments.read(name, len(content), unlink=True) == content[number:] + content[:number]
                with pytest.raises(SegmentGone):
                    segments.read(name, len(content), unlink=True)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_those_who_wait_hear_of_the_controllers_end(authority: trustme.CA) -> None:
    with tempfile.TemporaryDirectory(prefix="ds-") as name:
        controller = start(Path(name), authority)
        client = connected(controller)
        segments = distant[client.controller.segments()]
        controller.kill()
        wait_for(lambda: client.closed is not None)
        assert isinstance(client.closed, ControllerLost)
        for use in (
            lambda: segments.write([b"x"], 1, "v"),
            lambda: segments.read("u-1", 1, unlink=False),
            lambda: client.query("status"),
        ):
            with pytest.raises(ControllerLost):
                use()


def test_a_controller_that_answers_no_ping_is_lost(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_distant_controller, "PING_INTERVAL_S", 0.05)
    monkeypatch.setattr(_distant_controller, "PING_TIMEOUT_S", 2.0)  # enough for a controller on a busy machine
    with tempfile.TemporaryDirectory(prefix="ds-") as name:
        controller = start(Path(name), authority)
        try:
            client = connected(controller)
            controller.process.send_signal(signal.SIGSTOP)
            wait_for(lambda: client.closed is not None)
            assert isinstance(client.closed, ControllerLost)
        finally:
            controller.process.send_signal(signal.SIGCONT)
            controller.kill()


BAD_STARTS = {
    "clear text for others": (["--host", "0.0.0.0"], "--tls-cert"),
    "half": (["--tls-cert", "cert.pem"], "go together"),
    "no files": (["--tls-cert", "/missing.pem", "--tls-key", "/missing.pem"], "/missing.pem"),
    "no such address": (["--host", "203.0.113.1", "--tls-cert", "CERT", "--tls-key", "KEY"], "cannot be opened"),
    "another's key": (["--tls-cert", "CERT", "--tls-key", "OTHER"], "no certificate and its key"),
}


@pytest.mark.parametrize("what", BAD_STARTS)
def test_a_port_that_must_not_be_opened_so(authority: trustme.CA, what: str) -> None:
    arguments, text = BAD_STARTS[what]
    with tempfile.TemporaryDirectory(prefix="ds-") as name:
        folder = Path(name)
        certificate, key = write_certificate(folder, authority)
        _, other = write_certificate(folder, authority, "other.example")
        files = {"CERT": certificate, "KEY": key, "OTHER": other}
        controller = Controller(folder, *(files.get(word, word) for word in arguments), embedded=False)
        try:
            assert controller.process.wait(TIMEOUT_S) == 2
            assert text in controller.said() and "Traceback" not in controller.said()
        finally:
            controller.kill()
