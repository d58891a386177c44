"""A controller that is killed while running sequences move to another device for a model that waits for theirs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("openai")

from deepserve._marked_processes import marked_processes
from tests.killing.processes import is_answering
from tests.tiny_models import make_model
from tests.waiting import wait_for

APP = Path(__file__).parent / "killed_move_app.py"
UP = Path(__file__).parents[2] / "killing" / "up_with_faults.py"
MARK = "DEEPSERVE_KILLED_MOVE"


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "wide", "qwen3", max_position_embeddings=8192)


class World:
    """The processes of one test, and the folders where they keep what outlives them."""

    def __init__(self, folder: Path, mode: str) -> None:
        self.mark = uuid.uuid4().hex
        self.folder = folder
        self.environment = {
            **os.environ,
            MARK: self.mark,
            "DEEPSERVE_URL": mode,
            "DEEPSERVE_QUIET": "1",
            "DEEPSERVE_DEVICES": "npu:910c@cpu,npu:910b@cpu",
            "XDG_RUNTIME_DIR": str(folder),
            "XDG_STATE_HOME": str(folder / "state"),
        }
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *words: str) -> subprocess.Popen[str]:
        errors = open(self.folder / "stderr", "a")
        with errors:
            process = subprocess.Popen(
                [sys.executable, *words], env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=errors, text=True,
            )  # fmt: skip
        self.started.append(process)
        return process

    def start_up(self) -> None:
        process = self.start(str(UP), "--up")
        wait_for(lambda: is_answering(self.folder / "deepserve/up.sock") or process.poll() is not None)
        assert process.poll() is None, self.said()

    def line(self, process: subprocess.Popen[str]) -> str:
        """That it prints next, or what it ended with."""
        assert process.stdout is not None
        return process.stdout.readline().rstrip() or self.said()

    def said(self) -> str:
        return (self.folder / "stderr").read_text()

    def processes(self) -> set[int]:
        for process in self.started:
            process.poll()  # one that has ended stays in the list until it is asked
        return set(marked_processes(MARK, self.mark))

    def folders(self) -> list[Path]:
        """Of its controllers, in the runtime folder."""
        return [path for path in (self.folder / "deepserve").iterdir() if path.is_dir()]

    def close(self) -> None:
        for process in self.started:
            process.kill()
            process.communicate()
        wait_for(lambda: not self.processes())


@pytest.fixture
def worlds() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize(
    ("mode", "when", "step"),
    [
        ("embedded", "prepare", 1),  # the first of three sequences
        ("up", "prepare", 2),
        ("up", "release", 1),
        ("embedded", "release", 2),
        ("embedded", "released", 1),
        ("up", "released", 2),  # one goes on elsewhere by then
    ],
)
def test_a_controller_dies_in_the_middle_of_a_device_move(
    wide: Path, mode: str, when: str, step: int, worlds: ExitStack
) -> None:
    """Whoever waits or reads is told at once, no pod is left, and the next controller serves both models."""
    folder = Path(worlds.enter_context(tempfile.TemporaryDirectory(prefix="ds-")))
    world = World(folder, mode)
    worlds.callback(world.close)
    if mode == "up":
        world.start_up()
    script = world.start(str(APP), str(wide), when, str(step), *(["--deploy"] if mode == "up" else []))
    segments = Path(world.line(script).removeprefix("lost "))
    assert segments.is_absolute(), world.said()
    wait_for(lambda: world.processes() == {script.pid})
    if mode == "up":
        world.start_up()
    assert script.stdin is not None
    script.stdin.write("\n")
    script.stdin.flush()
    assert world.line(script) == "again", world.said()
    assert script.wait(60) == 0, world.said()
    assert "Traceback" not in world.said(), world.said()
    if mode == "up":
        world.started[-1].terminate()
    wait_for(lambda: not world.processes())
    assert not segments.exists() and not world.folders()
