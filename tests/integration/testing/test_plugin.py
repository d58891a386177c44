"""The pytest plugin as its users have it: each test here writes a test file and runs pytest on it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

APP = """
import os
import socket

import deepserve

app = deepserve.App("shop")
SEEN: list[int] = []


@app.function(max_pods=2)
def square(x: int) -> int:
    return x * x


@app.function(max_pods=1, retries=deepserve.Retries(2, initial_delay=0))
def pay(path: str) -> tuple[int, int]:
    with open(path, "a") as file:
        file.write("paid ")
    return os.getpid(), deepserve.context().attempt


@app.function(max_pods=1)
def see(x: int) -> list[int]:
    SEEN.append(x)
    return SEEN


@app.function
def call_out(host: str) -> None:
    socket.create_connection((host, 80), timeout=1)


@app.function
def twice(x: int) -> int:
    return square.remote(x) + square.remote(x)


@app.function
def forever() -> None:
    import time

    time.sleep(1000)
"""


def run(pytester: pytest.Pytester, test: str, *arguments: str, ini: str = "") -> pytest.RunResult:
    pytester.makepyfile(app=APP)
    pytester.makepyfile(test_it="import os, socket, pytest, deepserve\nfrom app import *\n" + test)
    pytester.makeini(f"[pytest]\npythonpath = .\n{ini}")
    return pytester.runpytest_subprocess("-p", "deepserve.testing.plugin", "-p", "no:cacheprovider", *arguments)


def test_an_engine_for_each_test(pytester: pytest.Pytester) -> None:
    done = run(
        pytester,
        """
def test_first(deepserve_local):
    assert see.remote(1) == [1]
    assert [pod["label"] for pod in deepserve_local.pods() if pod["label"]] == ["shop/see"]
    assert [(call["label"], call["state"]) for call in deepserve_local.requests()] == [("shop/see", "ok")]

def test_second(deepserve_local):
    assert see.remote(2) == [2]
    assert twice.remote(3) == 18
    labels = [call["label"] for call in deepserve_local.requests()]
    assert labels == ["shop/see", "shop/twice", "shop/square", "shop/square"]

def test_nothing_is_called(deepserve_local):
    pass
""",
    )
    done.assert_outcomes(passed=3)


def test_an_engine_for_the_session(pytester: pytest.Pytester) -> None:
    done = run(
        pytester,
        """
def test_first(deepserve_local):
    assert see.remote(1) == [1]

def test_second(deepserve_local):
    assert deepserve_local.requests() == []
    assert see.remote(2) == [1, 2]
    assert len(deepserve_local.requests()) == 1
""",
        ini="deepserve_local_scope = session",
    )
    done.assert_outcomes(passed=2)


def test_a_pod_dies_at_a_step(pytester: pytest.Pytester) -> None:
    done = run(
        pytester,
        """
def test_before_its_code(deepserve_local, tmp_path):
    first, _ = pay.remote(str(tmp_path / "a"))
    with deepserve_local.kill_pod_at(step=2) as kill:
        assert pay.remote(str(tmp_path / "b")) == (first, 1)
        second, attempt = pay.remote(str(tmp_path / "c"))
    assert second != first and attempt == 2
    assert (tmp_path / "c").read_text() == "paid "
    assert kill.pod_id.startswith("pod-") and kill.num_started == 3
    assert len(deepserve_local.requests()) == 3

def test_after_its_work(deepserve_local, tmp_path):
    with deepserve_local.kill_pod_at(step=1, when="end"):
        assert pay.remote(str(tmp_path / "a"))[1] == 2
    assert (tmp_path / "a").read_text() == "paid paid "

def test_without_retries(deepserve_local):
    told = "a test killed it at the start of step 1"
    with deepserve_local.kill_pod_at(step=1), pytest.raises(deepserve.PodLost, match=told):
        square.remote(3)
    assert square.remote(3) == 9

def test_of_a_map(deepserve_local):
    again = square.with_options(retries=deepserve.Retries(1, initial_delay=0))
    with deepserve_local.kill_pod_at(step=1) as kill:
        assert list(again.map(range(50))) == [n * n for n in range(50)]
    assert kill.pod_id

def test_of_a_call_inside_a_pod(deepserve_local):
    with deepserve_local.kill_pod_at(step=3), pytest.raises(deepserve.PodLost):
        twice.remote(3)

def test_that_never_comes(deepserve_local):
    with pytest.raises(AssertionError, match="1 calls were started inside the block, no pod was killed"):
        with deepserve_local.kill_pod_at(step=2):
            square.remote(3)
    with pytest.raises(ZeroDivisionError):
        with deepserve_local.kill_pod_at(step=2):
            1 / 0

def test_wrong(deepserve_local):
    for given in ({"step": 0}, {"step": 1.5}, {"step": 1, "when": "later"}):
        with pytest.raises(ValueError, match="kill_pod_at"):
            with deepserve_local.kill_pod_at(**given):
                pass
""",
    )
    done.assert_outcomes(passed=7)


def test_there_is_no_network(pytester: pytest.Pytester) -> None:
    done = run(
        pytester,
        """
def test_here(deepserve_local):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(deepserve.NetworkRefused, match="connect to .'127.0.0.1', "):
            socket.create_connection(listener.getsockname())
    with pytest.raises(deepserve.NetworkRefused, match="looking up 'example.com'"):
        socket.create_connection(("example.com", 80))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, pytest.raises(deepserve.NetworkRefused):
        sender.sendto(b"x", ("127.0.0.1", 9))

def test_in_pods(deepserve_local):
    with pytest.raises(deepserve.NetworkRefused, match="deepserve_allow_network"):
        call_out.remote("127.0.0.1")

@pytest.mark.deepserve_allow_network
def test_unless_it_is_allowed(deepserve_local):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        socket.create_connection(listener.getsockname()).close()
    with pytest.raises(OSError):  # nobody listens there, but it may look
        call_out.remote("127.0.0.1")

def test_without_the_fixture():
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", 9))
""",
        "--strict-markers",
    )
    done.assert_outcomes(passed=4)


def test_calls_that_are_left_running_fail_their_test(pytester: pytest.Pytester) -> None:
    done = run(
        pytester,
        """
def test_leaves_one(deepserve_local):
    forever.spawn()

def test_cancels_it(deepserve_local):
    forever.spawn().cancel()
    for item in square.map(range(100)):
        break

def test_waits(deepserve_local):
    calls = [square.spawn(n) for n in range(10)]
    deepserve_local.wait_idle()
    assert all(call.done() for call in calls)
    stuck = forever.spawn()
    with pytest.raises(TimeoutError, match=r"there still runs: shop/forever \\(rq-"):
        deepserve_local.wait_idle(timeout=0.1)
    stuck.cancel()
""",
    )
    done.assert_outcomes(passed=3, errors=1)
    done.stdout.fnmatch_lines(["*the test left calls running*shop/forever (rq-*"])


MODELS = """
import deepserve
from app import app

llm = deepserve.Model("tiny", source="no/such/folder")

@app.function
def ask(question: str) -> str:
    return llm.chat(question).text
"""


def test_scripted_models(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(models=MODELS)
    done = run(
        pytester,
        """
import asyncio
from typing import Any
from models import ask, llm
from deepserve.testing import tool_call

@deepserve.tool
def add(a: int, b: int) -> int:
    "Add two numbers."
    return a + b

def test_in_order_here_and_in_pods(scripted_model):
    said = scripted_model(llm, ["one", {"title": "t"}, "three and four", "five", "six"])
    assert llm.chat("first").text == "one"
    assert llm.chat("second", output_type=dict[str, str]).output == {"title": "t"}
    assert "".join(llm.stream("third")) == "three and four"
    assert ask.remote("from a pod") == "five"
    assert asyncio.run(llm.chat.aio("last")).text == "six"
    assert [asked.messages[-1]["content"] for asked in said.asked] == ["first", "second", "third", "from a pod", "last"]

def test_a_context(scripted_model):
    said = scripted_model(llm, ["one", "two"])
    context = llm.cache("rules", ttl=60)
    assert llm.chat("first", context=context).text == "one"
    assert asyncio.run(llm.chat.aio("last", context=asyncio.run(llm.cache.aio("rules")))).text == "two"
    assert len(said.asked) == 2

def test_what_no_script_answers(scripted_model):
    scripted_model(llm, [])
    for verb, ask in (("embed", lambda: llm.embed("a")), ("openai", llm.openai)):
        with pytest.raises(deepserve.ModelError, match=f"llm.{verb}: the test has scripted model 'tiny'"):
            ask()
    with pytest.raises(deepserve.ModelError, match="scripted"):
        asyncio.run(llm.embed.aio("a"))

def test_an_agent(scripted_model):
    scripted_model(llm, [tool_call("add", a=2, b=3), "it is 5"])
    assert deepserve.Agent("clerk", model=llm, tools=[add]).run("2 + 3?").output == "it is 5"

def test_it_runs_out(scripted_model):
    scripted_model(llm, ["one"])
    llm.generate("a")
    with pytest.raises(deepserve.ScriptExhausted, match="model 'tiny' has 1 answers; one more was asked for: 'b'"):
        llm.generate("b")
    with pytest.raises(deepserve.ScriptExhausted):
        ask.remote("c")

def test_other_models_are_real(scripted_model):
    scripted_model(deepserve.Model("other", source="x"), [])
    with pytest.raises(deepserve.ModelLoadError):
        llm.chat("is there no such folder?")

def test_something_is_left(scripted_model):
    scripted_model(llm, ["one", "two"])
    llm.chat("a")

def test_wrong(scripted_model):
    with pytest.raises(TypeError, match="takes a deepserve.Model"):
        scripted_model("llm", [])
    with pytest.raises(TypeError, match="takes a list of answers"):
        scripted_model(llm, "one")
""",
    )
    done.assert_outcomes(passed=8, errors=1)
    done.stdout.fnmatch_lines(["*1 of the 2 scripted answers of model 'tiny' were not asked for*"])


def test_settings_that_are_none(pytester: pytest.Pytester) -> None:
    done = run(pytester, "def test_it(): ...\n", ini="deepserve_local_scope = module")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*deepserve_local_scope = 'module': give test or session*"])
    test = "@pytest.mark.deepserve_allow_network\ndef test_it(deepserve_local): ...\n"
    done = run(pytester, test, ini="deepserve_local_scope = session")
    done.stdout.fnmatch_lines(["*deepserve_allow_network marks single tests*"])


def test_pytest_finds_it_and_it_costs_nothing_unused() -> None:
    root = Path(__file__).parents[3]
    project = tomllib.loads(root.joinpath("pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"deepserve.testing.plugin": "deepserve.testing.plugin"}
    told = subprocess.run(
        [sys.executable, "-c", "import pytest, sys; old = set(sys.modules); import deepserve.testing.plugin\n"
         "print(*sorted(set(sys.modules) - old))"],
        capture_output=True, text=True, env=dict(os.environ), check=True,
    )  # fmt: skip
    assert told.stdout.split() == ["deepserve", "deepserve.testing", "deepserve.testing.plugin"]
