"""Weights are brought into host memory ahead of demand for pods that have NPUs of their own."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

import deepserve
from deepserve import settings
from deepserve._current_client import current_client
from deepserve.testing import LocalEngine
from tests.kept_demand import state_that_expects
from tests.tiny_models import make_model
from tests.waiting import wait_for


def status(llm: deepserve.Model, what: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = current_client().query("status", {})[what]
    return [each for each in found if each.get("label", llm.spec.label) == llm.spec.label]


def held(llm: deepserve.Model) -> list[str]:
    """NPUs that pods hold."""
    return [device["id"] for device in status(llm, "devices") if device["pod_id"]]


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_model_on_npus_is_loaded_into_host_memory_before_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPSERVE_DEVICES", "npu:910c:8@cpu")
    folder = make_model(tmp_path / "tiny", "qwen3")
    llm = deepserve.Model("seldom", source=folder, accelerator="npu:910c:2")
    with LocalEngine():
        settings.use_settings(settings.current_settings()._replace(state=state_that_expects(tmp_path / "state", llm)))
        answer = llm.generate("hi", max_tokens=5, temperature=0)
        [pod] = status(llm, "pods")
        assert len(held(llm)) == 2 and status(llm, "templates") == []
        os.kill(pod["pid"], signal.SIGKILL)
        wait_for(lambda: [each["state"] for each in status(llm, "templates")] == ["ready"])
        [copy] = status(llm, "templates")
        assert copy["source"] == "host memory"
        assert re.fullmatch(r"likely \(\d\d%\) to be asked within 30 s", copy["reason"])
        assert held(llm) == [] and status(llm, "pods") == []
        assert llm.generate("hi", max_tokens=5, temperature=0) == answer
        [pod] = status(llm, "pods")
        assert pod["source"] == "host memory" and len(held(llm)) == 2
        assert parent_of(pod["pid"]) != copy["pid"], "it has devices of its own, so it loaded for itself"
