"""A model is loaded once, in a template; its pods are forked from that, and share its weights."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import deepserve
from deepserve import settings
from deepserve._current_client import current_client
from deepserve.errors import ModelLoadError
from deepserve.protocol.scaling_steps import LOAD, SCALING_STEPS
from deepserve.protocol.specs import function_id
from deepserve.testing import LocalEngine
from tests.kept_demand import state_that_expects
from tests.tiny_models import make_model

WAIT_S = 60.0


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A model that nobody has loaded."""
    return make_model(tmp_path / "own", "qwen3")


def ask(llm: deepserve.Model) -> str:
    return llm.generate("The quick", max_tokens=4, temperature=0)


def entries(llm: deepserve.Model, kind: str = "pods") -> list[dict[str, Any]]:
    model = function_id(llm.spec)
    return [entry for entry in current_client().query("status")[kind] if entry["function_id"] == model]


def scale(llm: deepserve.Model, number: int) -> list[dict[str, Any]]:
    client, model = current_client(), function_id(llm.spec)
    client.query("scale", {"function_id": model, "min_pods": number, "max_pods": number})
    until(lambda: client.query("function", {"function_id": model})["ready"] == number)
    return entries(llm)


def until(is_true: Callable[[], object]) -> None:
    ends_s = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < ends_s, current_client().query("status")
        time.sleep(0.01)


def test_pods_are_forked_ready_and_share_their_weights(own: Path) -> None:
    llm = deepserve.Model("forked", source=own, max_pods=4)
    answer = ask(llm)
    [template] = entries(llm, "templates")
    assert template["state"] == "ready" and template["source"] == "conversion" and template["steps_ms"][LOAD] > 0
    pods = scale(llm, 3)
    assert {pod["source"] for pod in pods} == {"fork"}
    for pod in pods:
        assert set(pod["steps_ms"]) == set(SCALING_STEPS), "no task has to come for the last one to end"
        assert pod["steps_ms"][LOAD] == 0.0 and pod["steps_ms"]["TE-Post-Load"] > 0
        flat = weights_of(pod["pid"])
        assert flat["Private_Dirty"] == 0 and flat["Rss"] > 0
        assert private_bytes(pod["pid"]) < 30e6
    assert parents([pod["pid"] for pod in pods]) == {template["pid"]}
    assert ask(llm) == answer


def test_the_next_template_finds_the_converted_weights_in_memory(own: Path) -> None:
    first = deepserve.Model("before", source=own)
    answer = ask(first)
    again = deepserve.Model("after", source=own)
    assert ask(again) == answer
    assert entries(again, "templates")[0]["source"] == "host memory"
    [pod] = [pod for pod in entries(again) if pod["state"] == "bound"]
    assert set(pod["steps_ms"]) == set(SCALING_STEPS)


def test_a_template_that_dies_while_it_loads_is_loaded_again(own: Path) -> None:
    llm = deepserve.Model("unlucky", source=own)
    with converting_waits(own):
        asked = Asked(llm)
        [child] = converters(llm)
        os.kill(entries(llm, "templates")[0]["pid"], signal.SIGKILL)
        until(lambda: not os.path.exists(f"/proc/{child}"))  # it does not outlive who wanted it
    assert asked.answer()


def test_a_killed_conversion_is_named(own: Path) -> None:
    llm = deepserve.Model("doomed", source=own)
    with converting_waits(own):
        asked = Asked(llm)
        [child] = converters(llm)
        os.kill(child, signal.SIGKILL)
        with pytest.raises(ModelLoadError, match=r"doomed.*converting the weights.*killed by SIGKILL"):
            asked.answer()
    assert ask(llm)


def test_an_executor_killed_while_it_is_forked_is_replaced(own: Path) -> None:
    llm = deepserve.Model("replaced", source=own, max_pods=2)
    ask(llm)
    [template] = entries(llm, "templates")
    known = set(children(template["pid"]))
    killed: list[int] = []

    def kill_first() -> None:
        ends_s = time.monotonic() + WAIT_S
        while not killed and time.monotonic() < ends_s:
            for pid in set(children(template["pid"])) - known:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    thread = threading.Thread(target=kill_first)
    thread.start()
    pods = scale(llm, 2)
    thread.join()
    assert len(pods) == 2 and killed and killed[0] not in {pod["pid"] for pod in pods}


def test_a_model_that_is_likely_to_be_asked_is_loaded_before_it_is(own: Path, tmp_path: Path) -> None:
    llm = deepserve.Model("seldom", source=own)
    with LocalEngine():
        settings.use_settings(settings.current_settings()._replace(state=state_that_expects(tmp_path / "state", llm)))
        answer = ask(llm)
        [template] = entries(llm, "templates")
        os.kill(template["pid"], signal.SIGKILL)  # and its pods with it; nobody asks

        def loaded() -> list[dict[str, Any]]:
            ready = [each for each in entries(llm, "templates") if each["state"] == "ready"]
            return [each for each in ready if each["pid"] != template["pid"]]

        until(loaded)
        [ahead] = loaded()
        assert ahead["source"] == "host memory" and ahead["requests"] == []
        assert re.search(r"likely \(\d\d%\) to be asked within 30 s", ahead["reason"])
        assert not [pod for pod in entries(llm) if pod["state"] == "bound"]
        assert ask(llm) == answer
        assert parents([pod["pid"] for pod in entries(llm)]) == {ahead["pid"]}


def test_a_checkpoint_that_changes_is_what_new_executors_load_and_others_keep_the_old_one(own: Path) -> None:
    llm = deepserve.Model("old", source=own, max_pods=3)
    before = ask(llm)
    [first] = entries(llm)
    change(own)
    new = deepserve.Model("new", source=own)
    after = ask(new)
    assert after != before and entries(new, "templates")[0]["source"] == "conversion"
    pods = {pod["pod_id"]: pod for pod in scale(llm, 2)}
    kept, fresh = pods.pop(first["pod_id"]), pods.popitem()[1]
    assert kept["source"] == "fork"
    assert fresh["source"] == "host memory"
    assert "not forked" in fresh["source_reason"] and "model.safetensors changed on disk" in fresh["source_reason"]
    assert {ask(llm) for _ in range(8)} <= {before, after}
    os.kill(kept["pid"], signal.SIGKILL)  # the last of the old ones
    until(lambda: kept["pod_id"] not in {pod["pod_id"] for pod in entries(llm)})
    assert {pod["source"] for pod in scale(llm, 3)} == {"host memory", "fork"}
    assert len(entries(llm, "templates")) == 2, "the old one stays for the pod that it forked, which loaded for itself"
    assert {ask(llm) for _ in range(8)} == {after}


def test_a_checkpoint_that_vanishes_is_served_by_who_holds_it(own: Path) -> None:
    llm = deepserve.Model("held", source=own, max_pods=2)
    before = ask(llm)
    (own / "model.safetensors").unlink()
    pods = scale(llm, 2)
    assert {pod["source"] for pod in pods} == {"fork"}
    assert any("model.safetensors vanished from disk" in pod["source_reason"] for pod in pods)
    assert {ask(llm) for _ in range(4)} == {before}
    with pytest.raises(ModelLoadError, match=r"no model\.safetensors"):
        ask(deepserve.Model("late", source=own))


def change(folder: Path) -> None:
    """Another checkpoint takes the place of the one there."""
    tensors = load_file(folder / "model.safetensors")
    name = "model.embed_tokens.weight"
    tensors[name] = np.random.default_rng(5).normal(size=tensors[name].shape).astype(tensors[name].dtype)
    save_file(tensors, folder / "model.new", metadata={"format": "pt"})
    (folder / "model.new").replace(folder / "model.safetensors")


class Asked:
    """A request in a thread."""

    def __init__(self, llm: deepserve.Model) -> None:
        self._found: list[str | BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(llm,))
        self._thread.start()

    def _run(self, llm: deepserve.Model) -> None:
        try:
            self._found.append(ask(llm))
        except BaseException as error:
            self._found.append(error)

    def answer(self) -> str:
        self._thread.join(WAIT_S)
        [found] = self._found
        if isinstance(found, BaseException):
            raise found
        return found


@contextmanager
def converting_waits(folder: Path) -> Iterator[None]:
    """As if another process were converting the model at the same time."""
    place = f"{folder.name}-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]}"
    weights = Path(os.environ["FLOWSERVE_CACHE"]) / "weights" / place
    weights.mkdir(parents=True)
    with (weights / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def converters(llm: deepserve.Model) -> list[int]:
    until(lambda: [item for item in entries(llm, "templates") if item["pid"] and children(item["pid"])])
    return children(entries(llm, "templates")[0]["pid"])


def children(pid: int) -> list[int]:
    try:
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def parents(pids: list[int]) -> set[int]:
    return {int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in pids}


def weights_of(pid: int) -> dict[str, int]:
    """Bytes of the mapping of the flat file."""
    found: dict[str, int] = {}
    is_inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if "-" in name.split(" ")[0]:
            is_inside = line.rstrip().endswith(".flat")
        elif is_inside and value.strip().endswith("kB"):
            found[name] = found.get(name, 0) + int(value.split()[0]) * 1024
    return found


def private_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty"))
