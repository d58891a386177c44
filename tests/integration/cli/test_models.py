"""`deepserve model ...` and models of app files, with a real controller and a tiny model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from deepserve.protocol.scaling_steps import SCALING_STEPS  # noqa: E402
from tests.integration.cli.conftest import Shell  # noqa: E402
from tests.tiny_models import make_model  # noqa: E402
from tests.waiting import wait_for  # noqa: E402

APP = """
import deepserve

llm = deepserve.Model("small", source="weights/tiny", min_pods=1)


@deepserve.function
def ask(prompt: str) -> str:
    return llm.chat(prompt, max_tokens=4, temperature=0).text
"""

CLIENT = """
import deepserve

llm = deepserve.Model.from_name("small")
print(len(llm.embed(["a", "b"])), llm.chat("hi", max_tokens=4, temperature=0).text)
"""

BRINGS_IT = """
import deepserve

llm = deepserve.Model("own", source="weights/tiny")
print(bool(llm.generate("hi", max_tokens=4)), flush=True)
input()
"""

HOLDS_IT = """
import deepserve

llm = deepserve.Model.from_name("small")
print(bool(llm.generate("hi", max_tokens=4)), flush=True)
input()
try:
    llm.generate("hi", max_tokens=4)
except deepserve.Refused as error:
    print(error)
"""

WITH_CONTEXT = """
import sys, deepserve

llm = deepserve.Model.from_name("small")
context = sys.argv[1] if len(sys.argv) > 1 else llm.cache("The quick brown fox jumps.", ttl=60)
print(context, repr(llm.chat("Over what?", context=context, max_tokens=8, temperature=0).text))
"""


APP_OF_ANOTHER_FOLDER = """
import deepserve

llm = deepserve.Model("elsewhere", source="rel/m")


@deepserve.function
def ask() -> int:
    return llm.chat("hi", max_tokens=2).usage.completion_tokens
"""


@pytest.fixture
def folder(shell: Shell) -> Path:
    return make_model(shell.folder / "weights" / "tiny", "llama", max_position_embeddings=256)


def test_a_source_relative_to_the_folder_of_the_deploy_is_the_same_in_pods(shell: Shell) -> None:
    make_model(shell.folder / "rel" / "m", "llama", max_position_embeddings=64)
    (shell.folder / "rel" / "r.py").write_text(APP_OF_ANOTHER_FOLDER)
    shell.out("deploy", "rel/r.py")
    assert shell.out("call", "r/ask").strip() == "2"
    (model,) = json.loads(shell.out("model", "list", "--json"))
    assert model["model"]["source"] == str(shell.folder / "rel" / "m")


def test_a_model_is_deployed_asked_and_stopped(shell: Shell, folder: Path) -> None:
    assert "Deployed small" in shell.out("model", "deploy", "small", "weights/tiny", "--quantization", "int8")
    [listed] = json.loads(shell.out("model", "list", "--json"))
    assert (listed["name"], listed["model"]["source"], listed["model"]["quantization"]) == (
        "small",
        str(folder),
        "int8",
    )
    assert "small" in shell.out("model", "list")

    answer = json.loads(shell.out("model", "chat", "small", "hi", "--max-tokens", "4", "--temperature", "0", "--json"))
    assert answer["usage"]["completion_tokens"] == 4
    assert shell.out("model", "chat", "small", "hi", "--max-tokens", "4", "--temperature", "0") == answer["text"] + "\n"

    info = json.loads(shell.out("model", "info", "small", "--json"))
    startup = info["startup"]
    assert startup["source"] == "fork" and startup["weights_bytes"] > 0
    assert (
        0.0 < startup["by_source_s"]["fork"] <= startup["by_source_s"]["host memory"] < startup["by_source_s"]["file"]
    )
    [pod] = info["pods"]
    assert info["settings"]["max_pods"] == 8 and sum(pod["steps_ms"].values()) > 0 and pod["source"] == "fork"
    assert {"Scaler-Pre", "TE-Pre-Load", "TE-Load", "TE-Post-Load"} <= set(pod["steps_ms"])
    assert set(pod["steps_ms"]) == set(SCALING_STEPS)
    route = info["routes"][0]
    assert (route["pod_id"], route["attempt"]) == (pod["pod_id"], 1) and route["reason"]
    shown = shell.out("model", "info", "small")
    assert route["request_id"] in shown and route["reason"] in shown
    assert pod["pod_id"] in shown and all(step in shown for step in SCALING_STEPS)
    [template] = info["templates"]
    assert (template["source"], pod["source_reason"]) == ("conversion", "its template holds the weights")
    assert "fork (its template holds the weights)" in shown
    assert "in about" in shown and "s (as a fork of its template)" in shown and "s from its file" in shown
    assert (
        f"{template['template_id']} (pid {template['pid']}), ready: conversion ({template['source_reason']})" in shown
    )

    words = ("--requests", "4", "--clients", "2", "--words", "8", "--tokens", "5", "--json")
    report = json.loads(shell.out("model", "bench", "small", *words))
    assert report["tokens_per_s"] > 0 and 0 < report["first_token_s"]["p50"] <= report["first_token_s"]["p99"]

    assert "Stopped small" in shell.out("model", "stop", "small")
    assert json.loads(shell.out("model", "list", "--json")) == []
    assert shell.run("model", "chat", "small", "hi").returncode == 3


def test_models_of_a_file_are_deployed_with_it(shell: Shell, folder: Path) -> None:
    (shell.folder / "app.py").write_text(APP)
    assert "ask, small" in shell.out("deploy", "app.py")
    client = shell.folder / "client.py"
    client.write_text(CLIENT)
    asked = subprocess.run(
        [sys.executable, str(client)], cwd="/", env=shell.environment, capture_output=True, text=True, timeout=120
    )
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.startswith("2 ")
    assert json.loads(shell.out("call", "app/ask", '{"prompt": "hi"}', "--json")) == asked.stdout[2:].rstrip("\n")
    info = json.loads(shell.out("model", "info", "small", "--json"))
    assert info["settings"]["min_pods"] == 1 and len(info["pods"]) == 1
    done = shell.run("model", "stop", "small")
    assert (done.returncode, "deepserve app stop app" in done.stderr) == (2, True), done
    done = shell.run("model", "deploy", "small", "weights/tiny")
    assert (done.returncode, "deployed already, by app 'app'" in done.stderr) == (2, True), done
    done = shell.run("call", "app/small", '{"prompt": "hi"}')
    assert (done.returncode, "deepserve model chat small" in done.stderr) == (2, True), done
    shell.out("app", "stop", "app")
    assert json.loads(shell.out("model", "list", "--json")) == []


def test_where_one_of_a_file_is_refused_nothing_of_it_is_deployed(shell: Shell, folder: Path) -> None:
    shell.out("model", "deploy", "small", "weights/tiny")
    shell.app.write_text(shell.app.read_text() + '\nllm = deepserve.Model("small", source="weights/tiny")\n')
    done = shell.run("deploy", "app.py")
    assert done.returncode == 2, done
    assert "a model 'small' is deployed already, by app 'model-small'" in done.stderr, done.stderr
    [app] = json.loads(shell.out("app", "list", "--json"))
    assert app["app"] == "model-small"


def test_a_stopped_model_gives_its_memory_back_though_a_client_has_found_it(shell: Shell, folder: Path) -> None:
    shell.out("model", "deploy", "small", "weights/tiny")
    words = [sys.executable, "-c", HOLDS_IT]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, env=shell.environment, stdin=pipe, stdout=pipe, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "True\n"
        shell.out("model", "stop", "small")

        def has_gone() -> bool:
            status = json.loads(shell.out("status", "--json"))
            return not any(each["function_id"] for each in [*status["pods"], *status["templates"]])

        wait_for(has_gone)
        said, _ = client.communicate("\n", timeout=120)
    assert "models/small was removed: its app was stopped" in said, said


def test_contexts_outlive_a_controller_that_is_killed(shell: Shell, folder: Path) -> None:
    shell.out("model", "deploy", "small", "weights/tiny")
    client = shell.folder / "client.py"
    client.write_text(WITH_CONTEXT)

    def run(*arguments: str) -> list[str]:
        words = [sys.executable, str(client), *arguments]
        done = subprocess.run(words, env=shell.environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.split(" ", 1)

    context, text = run()
    os.kill(json.loads(shell.out("status", "--json"))["pid"], signal.SIGKILL)
    shell.out("up")
    assert run(context) == [context, text]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["model", "list"], 5, "deepserve up"),
        (["model", "chat", "small", "hi"], 5, "deepserve up"),
        (["model", "deploy", "small", "./missing"], 3, "/missing is no folder\n"),
        (["model", "deploy", "small", "app.py"], 3, "/app.py is a file, not a model folder\n"),
        (["model", "deploy", "small", "./app.py"], 3, "/app.py is a file, not a model folder\n"),
        (["model", "deploy", "small", "weights/tiny", "--memory", "0"], 2, "memory=0"),
        (["model", "deploy", "small", "weights/tiny", "--accelerator", "tpu"], 2, "accelerator="),
        (["model", "deploy", "small", "weights/tiny", "--dtype", "float8"], 2, "dtype='float8'"),
        (["model", "deploy", "small", "weights/tiny", "--speculative-tokens", "99"], 2, "speculative_tokens=99"),
        (["model", "pull", "./missing"], 3, "is no folder"),
        (["model", "pull"], 2, "SOURCE"),
    ],
)
def test_exit_codes_without_a_controller(shell: Shell, folder: Path, words: list[str], code: int, says: str) -> None:
    done = shell.run(*words)
    assert (done.returncode, says.lower() in done.stderr.lower()) == (code, True), done
    assert os.sep + "cli" + os.sep not in done.stderr, "no place of the package's own"


def test_what_has_to_be_fetched_is_said_before_it_is_missed(shell: Shell, folder: Path) -> None:
    shell.environment["HF_HUB_CACHE"] = str(shell.folder / "hub")
    shell.out("up")
    done = shell.run("model", "deploy", "small", "tinny", "--json")
    assert (done.returncode, json.loads(done.stdout)["name"]) == (0, "small"), done
    assert "no folder 'tinny'" in done.stderr and "deepserve model pull tinny" in done.stderr
    done = shell.run("model", "deploy", "other", "weights/tiny", "--memory", "10")
    assert (done.returncode, "memory=10 MiB is too small: at least" in done.stderr) == (2, True), done
    words = ("--memory", "600", "--accelerator", "gpu", "--accelerator", "cpu")
    done = shell.run("model", "deploy", "small", "weights/tiny", *words)
    assert (done.returncode, done.stderr) == (0, ""), done
    info = json.loads(shell.out("model", "info", "small", "--json"))
    assert (info["memory_mib"], info["accelerators"]) == (600, ["gpu", "cpu"])
    assert ", 600 MiB of memory each" in shell.out("model", "info", "small")


def test_exit_codes_of_unknown_models(shell: Shell) -> None:
    shell.out("up")
    for words in (["info", "none"], ["stop", "none"], ["chat", "none", "hi"], ["bench", "none"]):
        done = shell.run("model", *words)
        assert (done.returncode, "no model 'none'" in done.stderr) == (3, True), done


REFUSED = """
import deepserve

@deepserve.function
def square(x: int) -> int:
    return x * x

llm = deepserve.Model("small", source="weights/tiny", max_model_len=4096)
"""


def test_what_could_not_be_loaded_is_not_deployed(shell: Shell, folder: Path) -> None:
    (shell.folder / "app.py").write_text(REFUSED)
    says = "Model 'small': max_model_len=4096 is more than the model's 256 positions"
    shell.out("up")
    for words in (["deploy", "app.py"], ["model", "deploy", "small", "weights/tiny", "--max-model-len", "4096"]):
        done = shell.run(*words)
        assert (done.returncode, says in done.stderr) == (2, True), done
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["MambaForCausalLM"]}))
    done = shell.run("model", "deploy", "small", "weights/tiny")
    assert (done.returncode, "'MambaForCausalLM' is not supported" in done.stderr) == (2, True), done
    assert json.loads(shell.out("model", "list", "--json")) == []
    assert json.loads(shell.out("app", "list", "--json")) == []


def test_info_says_why_a_model_cannot_be_loaded(shell: Shell, folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "away.json")
    shell.out("model", "deploy", "small", "weights/tiny")
    assert "failed" not in shell.out("model", "info", "small")
    assert "no tokenizer.json" in shell.run("model", "chat", "small", "hi").stderr
    shown = shell.out("model", "info", "small")
    assert "  failed    models/small" in shown and "no tokenizer.json" in shown
    (folder / "away.json").rename(folder / "tokenizer.json")
    assert shell.out("model", "chat", "small", "hi", "--max-tokens", "1", "--temperature", "0")
    assert "failed" not in shell.out("model", "info", "small")


def test_pull_of_a_folder_says_what_it_is(shell: Shell, folder: Path) -> None:
    about = json.loads(shell.out("model", "pull", "weights/tiny", "--json"))
    assert about["size_bytes"] > 100_000 and about["embeds"] is False


def test_a_model_of_a_script_is_shown_while_the_script_runs(shell: Shell, folder: Path) -> None:
    shell.out("up")
    script = shell.folder / "brings_it.py"
    script.write_text(BRINGS_IT)
    with subprocess.Popen(
        [sys.executable, str(script)],
        cwd=shell.folder, env=shell.environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as running:  # fmt: skip
        assert running.stdout is not None and running.stdout.readline() == "True\n"
        [listed] = json.loads(shell.out("model", "list", "--json"))
        assert (listed["name"], listed["app"], listed["ready"]) == ("own", "", 1)
        assert "(a script's)" in shell.out("model", "list")
        [pod] = json.loads(shell.out("model", "info", "own", "--json"))["pods"]
        shown = shell.out("model", "info", "own")
        assert pod["pod_id"] in shown and "own (of a script, not deployed" in shown
        assert shell.run("model", "stop", "own").returncode == 3, "it is the script's to end it"
        running.communicate("\n")
    wait_for(lambda: json.loads(shell.out("model", "list", "--json")) == [])
