"""The base install: everything imports, and all of the function part runs, where torch and its company are missing."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from deepserve.protocol.engine_packages import ENGINE_PACKAGES
from flowserve import packages

ROOT = Path(__file__).resolve().parents[2]
ALL = ", ".join(ENGINE_PACKAGES)
INSTALL = "pip install 'deepserve[flowserve]'"
IMPORT_NAMES = {"huggingface-hub": "huggingface_hub"}

SITECUSTOMIZE = """
import sys


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Missing())
"""

IMPORT_ALL = """
import importlib, pkgutil, sys

for package in ("deepserve", "deepserve_controller", "deepserve_runtime"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if not module.name.endswith("__main__") and module.name not in {skipped!r}:
            importlib.import_module(module.name)
import flowserve, flowserve.errors, flowserve.sampling_params, flowserve.scheduling, flowserve.tool_calls
"""

FUNCTIONS = """
import deepserve
import deepserve.errors

app = deepserve.App("light")


class Boom(Exception):
    pass


@app.function
def square(x):
    return x * x


@app.function
def count(n):
    yield from range(n)


@app.function
def fails():
    raise Boom("here")


@app.cls()
class Counter:
    start: int = deepserve.parameter(default=1)

    @deepserve.enter()
    def begin(self):
        self.value = self.start

    @deepserve.method()
    def add(self, n):
        self.value += n
        return self.value


llm = deepserve.Model("none", source="model")

if __name__ == "__main__":
    assert square.remote(3) == 9
    assert list(square.map(range(5))) == [0, 1, 4, 9, 16]
    assert list(count.remote(4)) == [0, 1, 2, 3]
    assert Counter(start=5).add.remote(2) == 7
    try:
        fails.remote()
    except Boom:
        print("caught")
    try:
        llm.chat("hi")
    except deepserve.errors.MissingPackage as error:
        print("refused:", error)
"""


def extra_packages() -> set[str]:
    """What the flowserve extra brings, by import name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {line.split(">=")[0].split("<")[0] for line in project["optional-dependencies"]["flowserve"]}
    return {IMPORT_NAMES.get(name, name) for name in names} | {"transformers"}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return environment_without(extra_packages(), tmp_path)


def environment_without(missing: set[str], tmp_path: Path) -> dict[str, str]:
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE.format(missing=missing))
    return {**os.environ, "PYTHONPATH": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "DEEPSERVE_QUIET": "1"}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_the_extra_is_really_missing(environment: dict[str, str]) -> None:
    assert "torch" in extra_packages()
    for name in sorted(extra_packages()):
        assert "ModuleNotFoundError" in run(environment, "-c", f"import {name}").stderr, name


def test_everything_imports_without_torch(tmp_path: Path) -> None:
    done = run(environment_without({"torch"}, tmp_path), "-c", IMPORT_ALL.format(skipped=()))
    assert done.returncode == 0, done.stderr


def engine_executors() -> tuple[str, ...]:
    """Those that import flowserve's parts, or one that does."""
    package = "deepserve_runtime.executors"
    sources = {path.stem: path.read_text() for path in (ROOT / "runtime" / package.replace(".", "/")).glob("*.py")}
    found = {"flowserve_parts"}
    while more := {
        name
        for name, source in sources.items()
        if name not in found and name != "__init__" and any(f"from {package}.{each} import" in source for each in found)
    }:
        found |= more
    return tuple(f"{package}.{name}" for name in sorted(found))


def test_all_but_the_engines_executors_imports_without_the_extra(environment: dict[str, str]) -> None:
    executors = engine_executors()
    assert "deepserve_runtime.executors.engine" in executors and "deepserve_runtime.executors.function" not in executors
    done = run(environment, "-c", IMPORT_ALL.format(skipped=executors))
    assert done.returncode == 0, done.stderr


def test_functions_run_and_a_model_is_refused_in_words(environment: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "light.py"
    script.write_text(FUNCTIONS)
    done = run(environment, str(script))
    assert done.returncode == 0, done.stderr
    caught, refused = done.stdout.splitlines()
    assert caught == "caught"
    assert refused == f"refused: models need {ALL}, which this environment has not: {INSTALL}"


def test_every_way_to_a_model_says_what_to_install_and_starts_nothing(
    environment: dict[str, str], tmp_path: Path
) -> None:
    environment |= {"XDG_STATE_HOME": str(tmp_path / "state")}
    (tmp_path / "app.py").write_text("import deepserve\nllm = deepserve.Model('m', source='model')\n")
    model = str(tmp_path / "model")
    ask = f"import deepserve; deepserve.Model('m', source={model!r}).openai()"
    here = f"models need {ALL}, which this environment has not: {INSTALL}"
    for words, code, said in (
        (("-m", "deepserve.cli", "model", "deploy", "m", model), 2, f"deepserve: MissingPackage: {here}"),
        (("-m", "deepserve.cli", "deploy", str(tmp_path / "app.py")), 2, f"deepserve: MissingPackage: {here}"),
        (("-m", "flowserve", "serve", model), 1, f"flowserve: flowserve serve needs {ALL}, which this"),
        (("-m", "flowserve", "bench", "--quick"), 1, f"flowserve: flowserve bench needs {ALL}, which this"),
        (("-m", "flowserve", "calibrate", model), 1, f"flowserve: flowserve calibrate needs {ALL}, which this"),
        (("-m", "flowserve", "pull", "owner/name"), 1, "huggingface_hub is not installed to fetch it: pip install"),
        (("-c", "from flowserve import LLM"), 1, f"MissingPackageError: flowserve.LLM needs {ALL}, which this"),
        (("-c", ask), 1, f"MissingPackage: {here}"),
    ):
        done = run(environment, *words)
        assert done.returncode == code and said in done.stderr and INSTALL in done.stderr, (words, done)
    assert not (tmp_path / "state").exists() and not (tmp_path / "deepserve").exists(), "no controller was started"


def test_a_controller_that_runs_says_what_its_environment_lacks(environment: dict[str, str], tmp_path: Path) -> None:
    environment |= {"XDG_STATE_HOME": str(tmp_path / "state")}
    try:
        started = run(environment, "-m", "deepserve.cli", "up")
        assert started.returncode == 0, started.stderr
        del environment["PYTHONPATH"]  # who asks has all of it
        done = run(environment, "-m", "deepserve.cli", "model", "deploy", "m", str(tmp_path / "model"))
    finally:
        run(environment, "-m", "deepserve.cli", "down")
    said = f"models need {ALL}, which the environment of the controller that runs has not: there, {INSTALL}"
    assert (done.returncode, done.stderr) == (2, f"deepserve: MissingPackage: {said}\n")


def test_the_engine_and_the_sdk_ask_for_the_same_packages() -> None:
    assert packages.PACKAGES == ENGINE_PACKAGES and set(ENGINE_PACKAGES) < extra_packages()
