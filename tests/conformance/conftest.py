"""Every test of this folder runs on every engine, which it leaves clean."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import deepserve
from deepserve import _current_client, settings
from deepserve._current_client import current_client
from tests.conformance.engines import ENGINES, Engine, chosen_engines
from tests.waiting import TIMEOUT_S, wait_for


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs an engine that others find is not asked of one that they do not."""
    for item in items:
        name = item.callspec.params.get("engine") if hasattr(item, "callspec") else None
        if name == "embedded" and item.get_closest_marker("deploys"):
            item.add_marker(pytest.mark.skip(reason="an embedded engine is found by nobody else"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "deploys: needs an engine that other processes find")


@pytest.fixture(scope="session", params=chosen_engines())
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Started once; from here on this process's calls go to it."""
    before = _current_client.installed_client()
    with ENGINES[request.param]() as engine:
        settings.use_settings(settings.Settings(url=engine.url, key=engine.key, quiet=True))
        _current_client.install(None)
        yield engine
        _current_client.install(before)
        settings.use_settings(None)


@pytest.fixture(autouse=True)
def leaves_nothing(engine: Engine) -> Iterator[None]:
    """No request is open, here or there, and no value is left after a test."""
    yield
    client = current_client()
    if client.inboxes.num_open or engine.leftovers():
        gc.collect()  # calls and refs in the frames of exceptions
    wait_until(lambda: client.inboxes.num_open == 0)
    wait_until_empty(running_requests)
    wait_until_empty(engine.leftovers)


def running_requests() -> list[str]:
    client = current_client()
    found = client.query("requests", {"limit": 0})["requests"]
    return [record["request_id"] for record in found if record["state"] in ("queued", "running")]


def wait_until(is_so: Callable[[], Any]) -> None:
    wait_for(is_so)


def wait_until_empty(look: Callable[[], list[str]]) -> None:
    """Says what is still there when it fails."""
    ends_at_s = time.monotonic() + TIMEOUT_S
    while (found := look()) and time.monotonic() < ends_at_s:
        time.sleep(0.02)
    assert found == []


def wait_for_file(path: Path) -> str:
    """Its text, as soon as it is there."""
    wait_until(path.exists)
    return path.read_text()


def forget(call: deepserve.Call[Any]) -> None:
    """A result that nobody will ask for again: engines that outlive scripts would keep it."""
    client = current_client()
    client.outgoing.forget_later(call.id)
    client.query("status")


class Scripts:
    """Scripts in processes of their own, on the same engine."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.folder = folder
        self.mark = f"mark-{uuid.uuid4().hex}"
        self._environment = {**engine.environment, "DEEPSERVE_TEST_MARK": self.mark}
        self._started: list[subprocess.Popen[str]] = []

    def start(self, text: str) -> subprocess.Popen[str]:
        path = self.folder / f"script_{len(self._started)}.py"
        path.write_text(text)
        command = [sys.executable, str(path), str(self.folder)]
        pipe = subprocess.PIPE
        script = subprocess.Popen(command, cwd=self.folder, env=self._environment, stdout=pipe, stderr=pipe, text=True)
        self._started.append(script)
        return script

    def run(self, text: str) -> str:
        """What it printed."""
        script = self.start(text)
        out, err = script.communicate(timeout=TIMEOUT_S)
        assert script.returncode == 0, err
        return out

    def end(self) -> None:
        for script in self._started:
            script.kill()
            script.communicate()


@pytest.fixture
def scripts(engine: Engine, tmp_path: Path) -> Iterator[Scripts]:
    scripts = Scripts(engine, tmp_path)
    yield scripts
    scripts.end()
    if engine.is_private:
        wait_until(lambda: processes_with(scripts.mark) == [])


def processes_with(mark: str) -> list[str]:
    """Those that inherited the environment variable."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                if mark.encode() in (folder / "environ").read_bytes():
                    found.append(folder.name)
            except OSError:  # it ended, or belongs to somebody else
                continue
    return found
