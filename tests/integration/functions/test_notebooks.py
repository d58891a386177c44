"""IPython, a Jupyter kernel and the plain REPL: cells run again, names that change, `await` at the top level."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.integration.functions.conftest import ScriptRunner

SHELL = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
for cell in json.load(open(sys.argv[1])):
    done = shell.run_cell(cell, store_history=True)
    if not done.success:
        print("FAILED", type(done.error_in_exec or done.error_before_exec).__name__)
"""

PODS = """
def pods(label):
    found = deepserve._current_client.current_client().query("status")["pods"]
    return [pod["pod_id"] for pod in found if pod["label"] == "interactive/" + label]

def wait_for(condition):
    import time
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)
"""


def run_cells(script: ScriptRunner, *cells: str) -> list[str]:
    """Lines that the cells print."""
    script.write(json.dumps(cells), "cells.json")
    script.write(SHELL, "shell.py")
    done = subprocess.run(
        [sys.executable, "shell.py", "cells.json"],
        cwd=script.folder,
        env={**script.environment, "IPYTHONDIR": str(script.folder), "DEEPSERVE_QUIET": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "FAILED" not in done.stdout, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_a_cell_that_is_run_again_replaces_its_function(script: ScriptRunner) -> None:
    lines = run_cells(
        script,
        "import deepserve",
        PODS,
        "@deepserve.function\ndef f(x): return x * 2",
        "@deepserve.function\ndef other(x): return x",
        "print(f.remote(3), other.remote(1)); old, kept = pods('f'), pods('other')",
        "@deepserve.function\ndef f(x): return x * 3",
        "print(f.remote(3), list(f.map(range(3))), f.spawn(4).get())",
        "wait_for(lambda: not set(old) & set(pods('f')))",  # old pods go, long before they would idle out
        "print(pods('other') == kept, other.remote(2))",
        "@deepserve.cls\nclass C:\n    @deepserve.method()\n    def m(self): return 'old'",
        "print(C().m.remote())",
        "@deepserve.cls\nclass C:\n    @deepserve.method()\n    def m(self): return 'new'",
        "print(C().m.remote())",
    )
    assert lines == ["6 1", "9 [0, 3, 6] 12", "True 2", "old", "new"]


def test_calls_of_the_old_function_end_well(script: ScriptRunner) -> None:
    lines = run_cells(
        script,
        "import deepserve, time, os",
        "@deepserve.function(max_pods=1)\n"
        "def f(x):\n    while not os.path.exists('go'): time.sleep(0.01)\n    return x",
        "old, calls = f, [f.spawn(n) for n in range(3)]",
        "@deepserve.function(max_pods=1)\ndef f(x): return x * 100",
        "print(f.remote(1))",
        "open('go', 'w').close(); print([call.get() for call in calls])",
        "print(old.remote(5), f.remote(2))",  # whoever kept the old one can still call it
    )
    assert lines == ["100", "[0, 1, 2]", "5 200"]


def test_names_are_taken_at_the_call(script: ScriptRunner) -> None:
    lines = run_cells(
        script,
        "import deepserve",
        "K, L = 1, [1]\ndef helper(x): return x + K",
        "@deepserve.function\ndef f(x): return helper(x), L",
        "print(f.remote(1))",
        "K = 10\nprint(f.remote(1))",
        "for K in (20, 30): print(f.remote(1))",
        "def helper(x): return -x",
        "print(f.remote(1))",
        "L.append(2)",
        "print(f.remote(1))",
        "late = deepserve.function(lambda x: missing + x)",
        "try: late.remote(1)\nexcept NameError as error: print(error)",
        "missing = 5\nprint(late.remote(1))",
    )
    assert lines == [
        "(2, [1])", "(11, [1])", "(21, [1])", "(31, [1])", "(-1, [1])", "(-1, [1, 2])",
        "name 'missing' is not defined", "6",
    ]  # fmt: skip


def test_await_and_blocking_verbs_in_cells(script: ScriptRunner) -> None:
    lines = run_cells(
        script,
        "import asyncio, deepserve",
        "@deepserve.function\ndef f(x): return x + 1\n@deepserve.function\ndef gen(n): yield from range(n)",
        "print(await f.remote.aio(1), f.remote(2), [x async for x in gen.remote.aio(2)], list(gen.remote(3)))",
        "call = await f.spawn.aio(5)\nprint(await call.get.aio(), call.get())",
        "print(await asyncio.gather(*(f.remote.aio(n) for n in range(3))), [x async for x in f.map.aio(range(3))])",
        "async def nested(): return f.remote(1)\nprint(await nested())",
        "print(f.remote(0))",
    )
    assert lines == ["2 3 [0, 1] [0, 1, 2]", "6 6", "[1, 2, 3] [1, 2, 3]", "2", "1"]


def test_classes_and_exceptions_of_cells_are_the_sessions_own(script: ScriptRunner) -> None:
    lines = run_cells(
        script,
        "import dataclasses, deepserve",
        "@dataclasses.dataclass\nclass Point:\n    x: int\nclass Boom(Exception): pass",
        "@deepserve.function\ndef move(p): return Point(p.x + 1)\n"
        "@deepserve.function\ndef boom(): raise Boom('from the pod')",
        "moved = move.remote(Point(1))\nprint(moved == Point(2), type(moved) is Point)",
        "try: boom.remote()\nexcept Boom as error: print('caught', error)",
        "@deepserve.cls\nclass Counter:\n    start: int = deepserve.parameter(default=1)\n"
        "    @deepserve.enter()\n    def load(self): self.n = Point(self.start)\n"
        "    @deepserve.method()\n    def add(self, k): self.n.x += k; return self.n\n"
        "    @deepserve.method()\n    def upto(self, n): yield from range(n)",
        "c = Counter(start=5)\nprint(c.add.remote(1), c.add.remote(1) == Point(7), list(c.upto.remote(2)), c.add(1))",
    )
    assert lines == ["True True", "caught from the pod", "Point(x=6) True [0, 1] Point(x=6)"]


def test_run_magic_and_modules_beside_the_notebook(script: ScriptRunner) -> None:
    script.write("import deepserve\nBASE = 7\n@deepserve.function\ndef from_file(x): return x + BASE\n", "tools.py")
    script.write("import deepserve\n@deepserve.function\ndef typed(x): return x * 5\nready = True\n", "part.py")
    lines = run_cells(
        script,
        "import deepserve, sys; sys.path.insert(0, '')",
        "%run part.py",
        "print(ready, typed.remote(2))",
        "from tools import from_file\nprint(from_file.remote(1))",
        "@deepserve.function\ndef both(x): return from_file(x) + typed(x)\nprint(both.remote(1))",
    )
    assert lines == ["True 10", "8", "13"]


def test_errors_in_cells_name_their_line(script: ScriptRunner) -> None:
    lines = run_cells(
        script,
        "import deepserve, threading, traceback\nlock = threading.Lock()",
        "@deepserve.function\ndef holds(): return lock\n@deepserve.function\ndef divides(x):\n    return 1 / x",
        "try: holds.remote()\nexcept deepserve.UnpicklableFunction as error: print('lock' in str(error))",
        "try: divides.remote(0)\nexcept ZeroDivisionError:\n    print('return 1 / x' in traceback.format_exc())",
    )
    assert lines == ["True", "True"]


def test_a_jupyter_kernel(script: ScriptRunner) -> None:
    manager_of = pytest.importorskip("jupyter_client.manager")
    pytest.importorskip("ipykernel")
    environment = {**script.environment, "IPYTHONDIR": str(script.folder), "DEEPSERVE_QUIET": "1"}
    manager, client = manager_of.start_new_kernel(
        kernel_name="python3", env=environment, cwd=str(script.folder), startup_timeout=60
    )
    try:
        printed: list[str] = []

        def hear(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])

        def run(cell: str) -> None:
            reply = client.execute_interactive(cell, timeout=60, output_hook=hear)
            assert reply["content"]["status"] == "ok", reply["content"]

        run("import deepserve")
        run("@deepserve.function\ndef f(x):\n    print('in a pod', flush=True)\n    return x * 2")
        run("print(f.remote(3), await f.remote.aio(4))")
        run("@deepserve.function\ndef f(x): return x * 3")
        run("print(f.remote(3), list(f.map(range(3))))")
        assert [line for line in "".join(printed).splitlines() if line != "in a pod"] == ["6 8", "9 [0, 3, 6]"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=False)


REPL = """import deepserve
K = 1
@deepserve.function
def f(x):
    return x + K

f.remote(1)
K = 10
f.remote(1)
@deepserve.function
def f(x):
    yield x
    yield K

list(f.remote(3))
class P:
    pass

type(deepserve.function(lambda: P()).remote()) is P
"""


def test_the_plain_repl(script: ScriptRunner) -> None:
    done = subprocess.run(
        [sys.executable, "-i", "-q"],
        input=REPL,
        cwd=script.folder,
        env={**script.environment, "DEEPSERVE_QUIET": "1", "PYTHONSTARTUP": os.devnull},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["2", "11", "[3, 10]", "True"], done.stderr
