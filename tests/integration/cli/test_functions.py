"""`deepserve function list|info|scale|schema` and `deepserve simulate`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.integration.cli.conftest import Shell
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def deployed() -> Iterator[Shell]:
    with TemporaryDirectory(prefix="ds-") as folder:
        shell = Shell(Path(folder))
        try:
            shell.out("deploy", "app.py")
            yield shell
        finally:
            shell.run("down")


def info(shell: Shell, target: str) -> dict:
    found: dict = json.loads(shell.out("function", "info", target, "--json"))
    return found


def test_a_function_says_how_many_pods_it_has_and_why(deployed: Shell) -> None:
    before = info(deployed, "shop/price")
    assert (before["ready"], before["decisions"], before["label"]) == (0, [], "shop/price")
    deployed.out("call", "shop/price", '{"item": "fig"}')
    after = info(deployed, "shop/price")
    [decision] = after["decisions"]
    assert (decision["from_pods"], decision["to_pods"], decision["queued"]) == (0, 1, 1)
    assert decision["reason"] == "1 queued + 0 running tasks / 1 slots = 1 pods"
    assert after["ready"] == 1 and after["pods"][0]["state"] == "bound"
    text = deployed.out("function", "info", "shop/price")
    assert "0 -> 1" in text and "1 queued + 0 running" in text and "1 ready, 0 starting, 0 draining" in text


def test_bounds_are_changed_one_by_one_and_shown(deployed: Shell) -> None:
    assert "1 to" in deployed.out("function", "scale", "shop/pid", "--min", "1", "--window", "9")
    deployed.out("function", "scale", "shop/pid", "--max", "3", "--buffer", "1")
    expected = {"min_pods": 1, "max_pods": 3, "buffer_pods": 1, "scaledown_window_s": 9.0}
    assert info(deployed, "shop/pid")["settings"] == expected
    listed = json.loads(deployed.out("function", "list", "shop", "--json"))
    [row] = [each for each in listed if each["name"] == "pid"]
    assert {name: row[name] for name in expected} == expected
    assert "1 to 3 pods, idle for 9 s, 1 in reserve" in deployed.out("function", "list")
    deployed.out("function", "scale", "shop/pid", "--min", "0")


def test_the_list_tells_how_many_calls_wait_and_run(deployed: Shell) -> None:
    gate = deployed.folder / "gate"
    words = deployed.command("call", "shop/wait", json.dumps({"gate": str(gate)}))
    with subprocess.Popen(words, cwd=deployed.folder, env=deployed.environment) as calling:
        try:
            wait_for(lambda: load_of(deployed, "wait") == (0, 1))
            assert all(title in deployed.out("function", "list") for title in ("waiting", "running"))
        finally:
            gate.touch()
        assert calling.wait() == 0
    wait_for(lambda: load_of(deployed, "wait") == (0, 0))


def load_of(shell: Shell, name: str) -> tuple[int, int]:
    [row] = [each for each in json.loads(shell.out("function", "list", "shop", "--json")) if each["name"] == name]
    return row["num_queued"], row["num_running"]


def test_schemas_are_known_without_the_code(deployed: Shell) -> None:
    schema = json.loads(deployed.out("function", "schema", "shop/price", "--json"))
    assert schema["required"] == ["item"] and schema["additionalProperties"] is False
    assert schema["properties"]["count"] == {"type": "integer", "default": 1}
    method = json.loads(deployed.out("function", "schema", "stock/Shelf.room"))
    assert list(method["properties"]) == ["taken"]


def test_schemas_and_bounds_outlive_the_controller(shell: Shell) -> None:
    shell.out("deploy", "app.py")
    first = info(shell, "shop/price")["settings"]
    shell.out("function", "scale", "shop/price", "--max", "3", "--window", "9")
    scaled = info(shell, "shop/price")["settings"]
    shell.out("down")
    shell.out("up")
    assert json.loads(shell.out("function", "schema", "shop/price"))["required"] == ["item"]
    assert info(shell, "shop/price")["settings"] == scaled == {**first, "max_pods": 3, "scaledown_window_s": 9.0}
    shell.out("deploy", "app.py")
    assert info(shell, "shop/price")["settings"] == first, "deployed again, though it is the same"


CALLS_ITSELF = """
import deepserve

app = deepserve.App("deep")


@app.function(min_pods=1, scaledown_window=WINDOW)
def factorial(n: int) -> int:
    return 1 if n < 2 else n * factorial.remote(n - 1)
"""


def pods_of(shell: Shell, label: str) -> set[str]:
    pods = json.loads(shell.out("status", "--json"))["pods"]
    return {pod["pod_id"] for pod in pods if pod["label"] == label}


def test_pods_of_a_replaced_function_that_calls_itself_end_when_idle(shell: Shell) -> None:
    shell.app.write_text(CALLS_ITSELF.replace("WINDOW", "0.1"))
    shell.out("deploy", "app.py")
    assert shell.out("call", "deep/factorial", '{"n": 3}') == "6\n"
    old = pods_of(shell, "deep/factorial")
    shell.app.write_text(CALLS_ITSELF.replace("WINDOW", "3600"))
    shell.out("deploy", "app.py")
    wait_for(lambda: (now := pods_of(shell, "deep/factorial")) and not now & old)


def test_pods_of_a_stopped_function_that_calls_itself_end(shell: Shell) -> None:
    shell.app.write_text(CALLS_ITSELF.replace("WINDOW", "3600"))
    shell.out("deploy", "app.py")
    assert shell.out("call", "deep/factorial", '{"n": 3}') == "6\n"
    shell.out("app", "stop", "deep")
    wait_for(lambda: not pods_of(shell, "deep/factorial"))


def running(shell: Shell, target: str) -> int:
    number: int = info(shell, target)["running"]
    return number


@pytest.mark.parametrize("how", ["stopped", "deployed anew without it"])
def test_what_runs_ends_with_its_result_when_its_app_is_gone(shell: Shell, how: str) -> None:
    shell.out("deploy", "app.py")
    gate = shell.folder / "gate"
    call_id = shell.out("call", "shop/wait", json.dumps({"gate": str(gate)}), "--async").strip()
    while not running(shell, "shop/wait"):
        pass
    if how == "stopped":
        shell.out("app", "stop", "shop")
    else:
        shell.app.write_text(shell.app.read_text().replace("def wait(", "def later("))
        shell.out("deploy", "app.py")
    assert shell.run("function", "info", "shop/wait").returncode == 3
    gate.touch()
    program = f"import deepserve; print(deepserve.Call.from_id({call_id!r}).get(timeout=60))"
    done = subprocess.run(
        [sys.executable, "-c", program], env=shell.environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "waited\n", done.stderr


def test_a_snapshot_that_cannot_be_says_why(shell: Shell) -> None:
    text = """
import threading
import deepserve

@deepserve.cls
class Ranker:
    @deepserve.enter(snap=True)
    def load(self):
        threading.Thread(target=threading.Event().wait, name="poller", daemon=True).start()

    @deepserve.method()
    def score(self) -> int:
        return 1

@deepserve.cls
class Plain(Ranker):
    @deepserve.enter(snap=True)
    def load(self):
        pass
"""
    (shell.folder / "rank.py").write_text(text)
    shell.out("deploy", "rank.py")
    assert shell.out("call", "rank/Ranker.score", "{}").strip() == "1"
    assert shell.out("call", "rank/Plain.score", "{}").strip() == "1"
    assert info(shell, "rank/Ranker")["pod_source"] == "not snapshotted: thread 'poller' is alive"
    assert "loaded    forked from its template" in shell.out("function", "info", "rank/Plain")
    status = shell.out("status")
    assert "template-" in status and "not snapshotted: thread 'poller' is alive" in status
    assert "Ranker: not snapshotted: thread 'poller' is alive" in shell.out("logs", "rank/Ranker")


def test_a_pod_that_the_host_can_never_hold_is_refused_at_deploy(shell: Shell) -> None:
    host_mib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    text = f"import deepserve\n@deepserve.function(memory={host_mib - host_mib // 50})\ndef greedy() -> None: ...\n"
    (shell.folder / "greedy.py").write_text(text)
    done = shell.run("deploy", "greedy.py")
    assert done.returncode == 2 and "a pod of greedy/greedy needs" in done.stderr, done.stderr
    assert json.loads(shell.out("app", "list", "--json")) == []


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["function", "info", "shop/none"], 3, "has no function 'none'"),
        (["function", "info", "none/price"], 3, "no app 'none'"),
        (["function", "info", "shop"], 2, "APP/FUNCTION"),
        (["function", "list", "none"], 3, "no app 'none'"),
        (["function", "scale", "shop/price"], 2, "--min"),
        (["function", "scale", "shop/price", "--min", "5", "--max", "2"], 2, "min_pods 5"),
        (["function", "scale", "shop/price", "--min", "-1"], 2, "0 or more"),
        (["function", "schema", "stock/Shelf"], 3, "Shelf.room"),
        (["simulate", "none"], 2, "small_host"),
    ],
)
def test_what_is_wrong_gets_its_exit_code(deployed: Shell, words: list[str], code: int, says: str) -> None:
    done = deployed.run(*words)
    assert done.returncode == code, done.stderr
    assert says in done.stderr


def test_without_a_controller_it_says_so(shell: Shell) -> None:
    assert shell.run("function", "list").returncode == 5


def test_a_scenario_is_simulated_beside_the_baseline(shell: Shell) -> None:
    answer = json.loads(shell.out("simulate", "rare", "--seed", "3", "--json"))
    assert [row["policy"] for row in answer["policies"]] == ["baseline", "reactive"]
    assert "| baseline" in shell.out("simulate", "rare", "--seed", "3")
    assert "sawtooth" in shell.out("simulate")
    placed = json.loads(shell.out("simulate", "models-placement", "--seed", "2", "--json"))
    assert placed["rules"][0]["rule"] == "least startup time"
