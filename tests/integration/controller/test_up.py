"""`--up`: found by others, survives a restart, leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import stat
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deepserve.protocol.messages import DefineFunction, LogOutput, PutBundle
from deepserve.protocol.specs import FunctionSpec
from tests.integration.controller.peers import Client, Controller
from tests.waiting import TIMEOUT_S, wait_for


@pytest.fixture(scope="module")
def up() -> Iterator[Controller]:
    """One for the tests that do not end it."""
    with tempfile.TemporaryDirectory(prefix="ds-") as name:
        controller = Controller(Path(name), embedded=False)
        try:
            yield controller.wait_until_up()
            controller.stop()
            assert "Traceback" not in controller.said(), controller.said()
        finally:
            controller.kill()


@pytest.fixture(autouse=True)
def no_app_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "up" in request.fixturenames:
        client = request.getfixturevalue("up").dial()
        for app in client.query("apps").body["apps"]:
            client.query("stop_app", app=app["app"])
        client.close()


def deploy(client: Client, names: tuple[str, ...], app: str = "shop", digest: str = "") -> dict[str, str]:
    if digest:
        client.send(PutBundle(digest, "files"), b"code of " + digest.encode())
    functions = {name: client.define(name, digest=digest) for name in names}
    answer = client.query("deploy", app=app, functions=functions)
    assert not answer.error, answer.text
    return functions


def call_http(up: Controller, path: str, body: bytes | None = None, key: str | None = None) -> tuple[int, Any]:
    told = json.loads((up.runtime / "up.json").read_text())
    key = (up.folder / "state/deepserve/key").read_text().strip() if key is None else key
    request = urllib.request.Request(told["url"] + path, data=body, headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_deployed_names_are_found_by_another_process(up: Controller) -> None:
    functions = deploy(up.dial(), ("buy", "sell"))
    client = up.dial()
    found = client.query("lookup", app="shop", name="buy").body
    assert found["function_id"] == functions["buy"]
    assert msgspec.convert(found["spec"], FunctionSpec).name == "buy"
    client.open("rq-1", found["function_id"], payload=b"x")
    assert client.finished("rq-1")[1] == b"x"
    assert "sell" in client.query("lookup", app="shop", name="bay").text
    assert client.query("lookup", app="chop", name="buy").error == "not_found"
    assert [app["app"] for app in client.query("apps").body["apps"]] == ["shop"]
    assert [f["name"] for f in client.query("functions", app="shop").body["functions"]] == ["buy", "sell"]


def test_a_new_deployment_replaces_the_old_one(up: Controller) -> None:
    client = up.dial()
    old = deploy(client, ("buy", "sell"))
    client.close()
    client = up.dial()
    new = {"buy": client.define("buy", timeout_s=7.0)}
    answer = client.query("deploy", app="shop", functions=new).body
    assert (answer["revision"], answer["removed"], answer["is_replaced"]) == (2, ["sell"], True)
    assert client.query("lookup", app="shop", name="buy").body["function_id"] == new["buy"] != old["buy"]
    client.open("rq-gone", old["sell"])
    assert client.finished("rq-gone")[0].outcome.kind == "refused"
    assert client.query("stop_app", app="shop").error == ""
    assert client.query("stop_app", app="shop").error == "not_found"
    client.close()


def test_a_stopped_app_can_be_deployed_again(up: Controller) -> None:
    for number in range(2):
        client = up.dial()
        function = deploy(client, ("buy",))["buy"]
        client.open(f"rq-round-{number}", function, payload=b"x")
        assert client.finished(f"rq-round-{number}")[1] == b"x"
        client.close()
        wait_for(lambda: up.dial().query("stop_app", app="shop").error == "")


@pytest.mark.parametrize(
    ("name", "body", "error"),
    [
        ("deploy", {"app": "a", "functions": {"f": "fn-unknown"}}, "not_found"),
        ("order_fault", {"step": 1, "when": "release", "victim": "controller"}, "invalid"),
        ("deploy", {"app": "a", "functions": {}}, "invalid"),
        ("check_deploy", {"apps": [{"app": "a", "specs": [3]}]}, "invalid"),
        ("deploy", {"app": "", "functions": {"f": "x"}}, "invalid"),
        ("deploy", {"functions": {"f": "x"}}, "invalid"),
        ("deploy", {"app": "a", "functions": {"f": 3}}, "invalid"),
        ("lookup", {"app": "a"}, "invalid"),
        ("lookup", {"app": 3, "name": "x"}, "invalid"),
        ("logs", {"target": "nobody/home"}, "not_found"),
        ("scale", {"function_id": "fn-unknown", "min_pods": 1, "max_pods": 1}, "not_found"),
        ("result_info", {"request_id": "rq-unknown"}, "not_found"),
        ("timeline", {"request_id": "rq-unknown"}, "not_found"),
        ("dance", {}, "invalid"),
    ],
)
def test_bad_queries_are_answered_in_words(up: Controller, name: str, body: dict[str, Any], error: str) -> None:
    answer = up.dial().query(name, **body)
    assert answer.error == error and answer.text


def test_apps_survive_a_restart_with_their_code(folder: Path) -> None:
    first = Controller(folder, embedded=False).wait_until_up()
    client = first.dial()
    functions = deploy(client, ("buy",), digest="d" * 40)
    assert client.query("shutdown").body["pid"] == first.process.pid
    assert first.process.wait(TIMEOUT_S) == 0, first.said()
    assert not (first.runtime / "up.json").exists() and not (first.runtime / "up.sock").exists()
    second = Controller(folder, embedded=False).wait_until_up()
    try:
        client = second.dial()
        client.open("rq-1", functions["buy"], payload=b"again")
        assert client.finished("rq-1")[1] == b"again"
        wait_for(lambda: "code of ddd" in client.query("logs", target="app/buy").body["text"])
        assert second.stop() == 0
    finally:
        first.kill()
        second.kill()


def test_one_controller_at_a_time(up: Controller) -> None:
    second = Controller(up.folder, embedded=False)
    try:
        assert second.process.wait(TIMEOUT_S) == 1
        assert str(up.process.pid) in second.said()
        elsewhere = Controller(up.folder, "--state", str(up.folder / "other"), embedded=False)
        assert elsewhere.process.wait(TIMEOUT_S) == 1
        elsewhere.kill()
        assert up.dial().query("status").error == ""
    finally:
        second.kill()


def test_a_killed_controller_is_cleaned_up_by_the_next(folder: Path) -> None:
    first = Controller(folder, embedded=False).wait_until_up()
    first.dial()
    left = [Path(first.welcome.folder), Path(first.welcome.segments)]
    first.kill()
    assert all(path.exists() for path in left)
    second = Controller(folder, embedded=False).wait_until_up()
    try:
        assert not any(path.exists() for path in left)
        assert second.dial().query("status").body["mode"] == "up"
        second.stop()
    finally:
        second.kill()


def test_logs_can_be_followed_and_are_kept_in_a_file(up: Controller) -> None:
    worker, watcher = up.dial(), up.dial()
    function = deploy(worker, ("talk",))["talk"]
    assert watcher.query("logs", target="shop/talk", follow=True).body["text"] == ""
    worker.open("rq-1", function, "print", b"hello\n")
    worker.finished("rq-1")
    assert watcher.expect(LogOutput)[1] == b"hello\n"
    assert worker.expect(LogOutput)[1] == b"hello\n"
    assert (up.folder / "state/deepserve/logs/app/talk.log").read_bytes() == b"hello\n"


def test_output_that_is_no_text_can_be_read(up: Controller) -> None:
    client = up.dial()
    client.open("rq-noise", client.define("noise"), "print", payload=b"\xff" * (600 << 10) + b"\n")
    assert client.finished("rq-noise")[0].outcome.is_ok
    wait_for(
        lambda: not (answer := client.query("logs", target="app/noise")).error and answer.body["text"].endswith("\n")
    )


def test_a_query_that_fails_is_answered(folder: Path) -> None:
    up = Controller(folder, embedded=False).wait_until_up()
    try:
        client = up.dial()
        deploy(client, ("buy",))
        with contextlib.closing(sqlite3.connect(folder / "state/deepserve/state.db")) as connection:
            connection.execute("DROP TABLE app_functions")
        answer = client.query("stop_app", app="shop")
        assert answer.error == "failed" and "no such table" in answer.text
        assert client.query("status").body["apps"]
    finally:
        up.kill()


def test_min_pods_are_kept_by_a_deployed_app_and_changed_by_scale(up: Controller) -> None:
    client = up.dial()
    function = deploy(client, ("buy",))["buy"]

    def pods() -> int:
        found = client.query("status").body["pods"]
        return sum(pod["function_id"] == function and pod["state"] == "bound" for pod in found)

    assert client.query("scale", app="shop", name="buy", min_pods=2, max_pods=3).error == ""
    wait_for(lambda: pods() == 2)
    assert client.query("scale", function_id=function, min_pods=3, max_pods=1).error == "invalid"


def test_http_needs_the_key(up: Controller) -> None:
    deploy(up.dial(), ("buy",))
    assert call_http(up, "/health", key="") == (200, {"ok": True})
    for path in ("/api/status", "/api/apps"):
        assert call_http(up, path, key="wrong")[0] == 401
        assert call_http(up, path)[0] == 200
    assert call_http(up, "/api/call/shop/buy", b"no JSON", key="wrong")[0] == 401
    assert stat.S_IMODE(os.stat(up.folder / "state/deepserve/key").st_mode) == 0o600
    assert stat.S_IMODE(os.stat(up.runtime / "up.json").st_mode) == 0o600


def test_what_a_controller_keeps_is_its_users_alone(folder: Path) -> None:
    state = folder / "state/deepserve"
    state.mkdir(parents=True, mode=0o700)
    (state / "demand.json").touch(mode=0o644)  # as an earlier version left it
    up = Controller(folder, embedded=False).wait_until_up()
    try:
        deploy(up.dial(), ("buy",), digest="d1")
        files = [path for path in state.rglob("*") if path.is_file()]
        assert {"state.db", "state.db-wal", "demand.json"} < {path.name for path in files}
        assert [path for path in files if stat.S_IMODE(path.stat().st_mode) != 0o600] == []
    finally:
        up.kill()


def test_http_calls_a_deployed_function(up: Controller) -> None:
    deploy(up.dial(), ("buy",))
    status, answer = call_http(up, "/api/call/shop/buy", b'{"n": 3}')
    assert status == 200 and answer["result"] == {"args": [], "kwargs": {"n": 3}}
    status, answer = call_http(up, "/api/call/shop/buy", b'{"args": [1, "x"]}')
    assert status == 200 and answer["result"] == {"args": [1, "x"], "kwargs": {}}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/call/shop/nothing", b"{}", 404),
        ("/api/call/nowhere/buy", b"{}", 404),
        ("/api/call/shop/buy", b"{", 400),
        ("/api/call/shop/buy", b"[1]", 400),
        ("/api/call/shop/buy", b'{"args": 3}', 400),
        ("/api/call/shop/buy", b'{"n": 1%s}' % (b"0" * 20), 400),
        ("/api/call/shop/buy", b'{"n": "\\ud800"}', 400),
        ("/api/call/shop/buy", b'{"a":' * 2000 + b"1" + b"}" * 2000, 400),
        ("/api/call/shop/buy", b'{"a": "' + b"x" * (1 << 20) + b'"}', 413),
    ],
)
def test_bad_http_calls(up: Controller, path: str, body: bytes, status: int) -> None:
    deploy(up.dial(), ("buy",))
    found, answer = call_http(up, path, body)
    assert found == status and answer["error"]["text"]


def test_only_loopback_is_listened_to(up: Controller) -> None:
    told = json.loads((up.runtime / "up.json").read_text())
    assert told["url"].startswith("http://127.0.0.1:") and told["pid"] == up.process.pid
    port = int(told["url"].rpartition(":")[2])
    tables = [Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")]
    listening = [line.split() for table in tables for line in table.splitlines()]
    ours = [fields[1] for fields in listening if fields[3] == "0A" and fields[1].endswith(f":{port:04X}")]
    assert ours == [f"0100007F:{port:04X}"]


def test_a_newer_store_is_refused_in_words(folder: Path) -> None:
    import sqlite3

    (folder / "state/deepserve").mkdir(parents=True, mode=0o700)
    with sqlite3.connect(folder / "state/deepserve/state.db") as connection:
        connection.executescript("create table schema_info (version integer); insert into schema_info values (99)")
    second = Controller(folder, embedded=False)
    try:
        assert second.process.wait(TIMEOUT_S) == 1
        assert "99" in second.said() and "Traceback" not in second.said()
    finally:
        second.kill()


def test_functions_of_scripts_do_not_hold_pods_after_them(up: Controller) -> None:
    from deepserve.protocol.specs import CodeRef, Scaling, function_id

    script = up.dial()
    spec = FunctionSpec("app", "eager", "function", CodeRef("builtin", "x", "y"), scaling=Scaling(1, 2))
    script.send(DefineFunction(function_id(spec), spec))
    watcher = up.dial()

    def pods() -> int:
        return sum(pod["label"] == "app/eager" for pod in watcher.query("status").body["pods"])

    wait_for(lambda: pods() == 1)
    script.close()
    assert watcher.query("scale", function_id=function_id(spec), min_pods=0, max_pods=1).error == ""


def test_a_taken_http_port_is_told(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        controller = Controller(folder, "--http-port", str(taken.getsockname()[1]), embedded=False)
        try:
            assert controller.process.wait(TIMEOUT_S) == 2
            assert "is in use by another program: give another --http-port" in controller.said()
        finally:
            controller.kill()


def test_a_runtime_folder_open_to_others_is_refused(folder: Path) -> None:
    (folder / "deepserve").mkdir(mode=0o755)
    controller = Controller(folder, embedded=False)
    try:
        assert controller.process.wait(TIMEOUT_S) == 1
        assert "open to other users" in controller.said()
    finally:
        controller.kill()
