"""Two models on a host that has little memory: what their pods may take is decided before they start."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import deepserve
from deepserve._current_client import current_client
from deepserve.testing import LocalEngine
from tests.tiny_models import make_model
from tests.waiting import wait_for

USABLE_MIB = 1600
"""For a template and four pods of one model, but not for a template of another one beside them."""


@pytest.fixture(scope="module")
def large_context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of which a sequence takes some MiB of KV, so that there is something to divide."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return make_model(folder, "qwen3", max_position_embeddings=4096)


def describe(model: deepserve.Model) -> dict[str, Any]:
    function_id = model.definitions()[0].function_id
    found: dict[str, Any] = current_client().query("function", {"function_id": function_id})
    return found


def wait_for_pods(model: deepserve.Model, least: int) -> dict[str, Any]:
    wait_for(lambda: describe(model)["ready"] >= least and not describe(model)["starting"])
    return describe(model)


def claimed_mib() -> int:
    memory: dict[str, int] = current_client().query("status", {})["memory"]
    assert memory["usable_mib"] == USABLE_MIB
    return memory["claimed_mib"]


def test_models_divide_a_small_host(large_context: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSERVE_HOST_MEMORY", str(USABLE_MIB))
    one = deepserve.Model("one", source=large_context, min_pods=8)
    two = deepserve.Model("two", source=large_context)
    with LocalEngine():
        answer = one.generate("hi", max_tokens=5, temperature=0)
        described = wait_for_pods(one, 3)
        need = described["memory"]
        assert 0 < need["least_kv_mib"] < need["kv_mib"]
        for pod in described["pods"]:
            assert need["least_kv_mib"] <= pod["kv_mib"] < need["kv_mib"], "there is less than they would take"
        assert "waits for memory: a pod needs" in described["reason"]
        assert claimed_mib() <= USABLE_MIB
        assert two.generate("hi", max_tokens=5, temperature=0) == answer
        assert claimed_mib() <= USABLE_MIB
        assert any(pod["is_asleep"] for pod in describe(one)["pods"]), "it got a part of what the other one had"
        assert one.generate("hi", max_tokens=5, temperature=0) == answer


def test_models_that_do_not_fit_together_answer_all_who_ask_at_once(
    large_context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for the template of one, a pod of it and a tokenizer."""
    monkeypatch.setenv("DEEPSERVE_HOST_MEMORY", "640")
    models = [deepserve.Model(name, source=large_context) for name in ("one", "two")]

    def ask(model: deepserve.Model) -> list[str]:
        return [model.generate("hi", max_tokens=5, temperature=0) for _ in range(4)]

    with LocalEngine(), ThreadPoolExecutor(6) as threads:
        answers = [threads.submit(ask, model) for model in models for _ in range(3)]
        assert len({text for each in answers for text in each.result(timeout=120)}) == 1


def test_a_model_that_cannot_fit_is_refused_with_what_it_needs(
    large_context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPSERVE_HOST_MEMORY", "400")
    model = deepserve.Model("large", source=large_context)
    with LocalEngine():
        says = r"needs \d+ MiB of memory .*this host has 400 MiB for pods"
        with pytest.raises(deepserve.Refused, match=says):
            model.generate("hi", max_tokens=5)
