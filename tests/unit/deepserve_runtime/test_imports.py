"""Who imports what: one file knows the engine, one the SDK, and an environment loads no more than its name says."""

from __future__ import annotations

import ast
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import deepserve_runtime
from deepserve_runtime.template import running_threads
from tests.tiny_models import make_model

ROOT = Path(deepserve_runtime.__file__).parent


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def files_that_import(package: str, but: str = "-") -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        for name in imports_of(path)
        if name.split(".")[0] == package and not f"{name}.".startswith(but)
    }


def test_one_file_knows_the_engine() -> None:
    assert files_that_import("flowserve") == {"executors/flowserve_parts.py"}


def test_one_file_knows_the_sdk() -> None:
    assert files_that_import("deepserve", but="deepserve.protocol.") == {"sdk.py"}


@pytest.mark.parametrize(
    ("environment", "absent"),
    [
        ("python", ("numpy", "torch", "flowserve", "tokenizers", "pydantic")),
        ("tokenizer", ("numpy", "torch", "transformers")),
        ("flowserve", ("jinja2", "transformers")),
    ],
)
def test_an_environment_loads_no_more_than_it_says(environment: str, absent: tuple[str, ...]) -> None:
    code = f"""
import sys, threading
from deepserve_runtime.environments import later_steps, load_environment, use_one_thread
use_one_thread()
load_environment({environment!r})
slow = [name for name in ("asyncio", "inspect", "_hashlib", "pathlib", "tarfile", "argparse") if name in sys.modules]
assert not slow or {environment!r} != "python", slow
for step in later_steps():
    step()
assert threading.active_count() == 1
print([name for name in {absent!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_a_model_imports_nothing_but_its_own_family(tmp_path: Path) -> None:
    """What the environment leaves to it, each model's first token would wait for."""
    code = """
import sys
from deepserve_runtime.environments import load_environment, use_one_thread
use_one_thread()
load_environment("flowserve")
from flowserve import EngineConfig
from flowserve.engine_template import EngineTemplate, take_first_step
before = set(sys.modules)
take_first_step(EngineTemplate(sys.argv[1], EngineConfig(num_threads=1)).engine())
print(sorted(name for name in set(sys.modules) - before if name.startswith(("flowserve", "torch"))))
"""
    folder = make_model(tmp_path / "model", "qwen3")
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "['flowserve.models.qwen3']\n", done.stdout + done.stderr


def test_a_template_with_a_thread_does_not_fork() -> None:
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait, name="left-over")
    thread.start()
    try:
        assert "left-over" in running_threads()
    finally:
        go_on.set()
        thread.join()
