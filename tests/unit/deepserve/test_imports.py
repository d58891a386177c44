from __future__ import annotations

import ast
import importlib.metadata
import inspect
import subprocess
import sys

import pytest

import deepserve

HEAVY = (
    "torch numpy flowserve httpx2 starlette uvicorn rich typer sqlalchemy pydantic asyncio anyio ssl cloudpickle "
    "tarfile subprocess websockets inspect typing_extensions _hashlib pathlib argparse "
    "deepserve_controller deepserve_runtime"
).split()


def loaded_after(code: str) -> list[str]:
    text = f"{code}\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=True)
    found: list[str] = ast.literal_eval(done.stdout)
    return found


@pytest.mark.parametrize(
    "code",
    [
        "import deepserve",
        "import deepserve\n@deepserve.function\ndef f(): ...\nf()",
        "import deepserve\n@deepserve.App('a').cls\nclass C:\n    @deepserve.method()\n    def f(self): ...\nC().f()",
    ],
)
def test_importing_and_decorating_load_nothing_heavy(code: str) -> None:
    assert loaded_after(code) == []


def test_every_public_name_is_there_and_typed() -> None:
    stubs = {
        alias.asname
        for node in ast.walk(ast.parse(inspect.getsource(deepserve)))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    assert stubs == set(deepserve.__all__)
    for name in deepserve.__all__:
        assert getattr(deepserve, name).__name__ == name
    assert set(deepserve.__all__) <= set(dir(deepserve))
    with pytest.raises(AttributeError):
        deepserve.nothing  # noqa: B018


def test_the_version_is_that_of_the_package() -> None:
    assert deepserve.__version__ == importlib.metadata.version("deepserve")
