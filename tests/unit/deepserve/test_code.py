"""Where a function's code is said to be, and what goes into a bundle."""

from __future__ import annotations

import json.decoder
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import deepserve
from deepserve import _bundle, _context, settings
from deepserve._context import TaskContext
from deepserve._entry import Entry
from deepserve._function import Definer, Function
from deepserve._options import Options
from deepserve._pickling import EVERYTHING, NOTHING
from deepserve.errors import UnpicklableFunction, ValueTooLarge
from deepserve.protocol.specs import CodeRef

app = deepserve.App("code")


@app.function
def named(x: int) -> int:
    return x + 1


@app.function
def calls_itself(n: int) -> int:
    return n and calls_itself.remote(n - 1)


def ref_of(function: Any) -> CodeRef:
    spec = function._definer.define().spec
    assert spec is not None
    return spec.code


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, str]], Path]]:
    before = set(sys.modules)
    _bundle._bundles.clear()
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def collected(module: str) -> list[str]:
    __import__(module)
    home = _bundle.home_of(module)
    assert home is not None
    return [str(Path(file).relative_to(home.root)) for file in _bundle.collect(home)]


def test_a_bundle_holds_loaded_modules_and_what_they_import_from_there(project: Callable[..., Path]) -> None:
    project(
        {
            "proj_main.py": "import proj_loaded\ndef f():\n    import proj_lazy\n    from proj_pkg import deep\n",
            "proj_loaded.py": "import json, numpy\n",
            "proj_lazy.py": "import proj_lazier\n",
            "proj_lazier.py": "",
            "proj_pkg/__init__.py": "",
            "proj_pkg/deep.py": "from . import sibling\n",
            "proj_pkg/sibling.py": "",
            "proj_pkg/inner/__init__.py": "",
            "proj_pkg/data.csv": "1,2",
            "proj_pkg/.hidden/secret.py": "",
            "unrelated.py": "",
            ".venv/lib/thing.py": "",
        }
    )
    assert collected("proj_main") == [
        "proj_lazier.py",
        "proj_lazy.py",
        "proj_loaded.py",
        "proj_main.py",
        "proj_pkg/__init__.py",
        "proj_pkg/deep.py",
        "proj_pkg/inner/__init__.py",
        "proj_pkg/sibling.py",
    ]


def test_a_package_is_taken_from_the_folder_above_it(project: Callable[..., Path]) -> None:
    root = project({"proj_lib/__init__.py": "", "proj_lib/work.py": "def f(): ...\n", "proj_lib/other.py": ""})
    assert collected("proj_lib.work") == ["proj_lib/__init__.py", "proj_lib/other.py", "proj_lib/work.py"]
    assert _bundle.home_of("proj_lib.work") == (str(root), "proj_lib.work", str(root / "proj_lib/work.py"))


def test_the_digest_is_of_names_and_contents(project: Callable[..., Path]) -> None:
    root = project({"proj_a.py": "x = 1\n", "proj_b.py": ""})
    files = [str(root / "proj_a.py"), str(root / "proj_b.py")]
    first = _bundle.pack(str(root), files)
    assert _bundle.pack(str(root), files[::-1]) == first
    assert msgspec.msgpack.decode(first.content) == {"proj_a.py": b"x = 1\n", "proj_b.py": b""}
    (root / "proj_a.py").write_text("x = 2\n")
    assert _bundle.pack(str(root), files).digest != first.digest


def test_a_large_bundle_is_refused_by_its_biggest_files(
    project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project({"proj_big.py": "#" * 5000, "proj_small.py": ""})
    monkeypatch.setattr(settings, "_settings", settings.Settings(max_bundle_bytes=1000))
    with pytest.raises(ValueTooLarge, match=r"5,000 bytes.*proj_big.py \(5,000 bytes\), proj_small.py"):
        _bundle.pack(str(root), [str(root / "proj_big.py"), str(root / "proj_small.py")])


def test_files_under_another_name_travel_as_a_dump(project: Callable[..., Path]) -> None:
    module = type(sys)("proj_renamed")
    module.__file__ = str(project({"other_name.py": ""}) / "other_name.py")
    sys.modules["proj_renamed"] = module
    assert _bundle.home_of("proj_renamed") is None
    assert _bundle.home_of("sys") is None


# --- the four ways ------------------------------------------------------------------------------------


def test_a_function_of_a_file_travels_by_name() -> None:
    ref = ref_of(named)
    assert (ref.transport, ref.module, ref.qualname, ref.main_module) == ("bundle", __name__, "named", "")
    assert pickle.loads(pickle.dumps(named)) is named
    copy = named.with_options(timeout=3)
    assert ref_of(copy) == ref
    assert copy._definer.define().function_id != named._definer.define().function_id


def test_a_function_of_an_installed_package_is_not_shipped() -> None:
    target = json.decoder.py_scanstring
    function = Function[Any, Any](Definer(app, Entry(target), Options(name="scan")))
    assert ref_of(function).transport == "builtin"
    assert function._definer.define().reach == NOTHING


def test_lambdas_and_closures_travel_in_one_dump_of_the_app() -> None:
    own = deepserve.App("closures")

    def make(n: int) -> Function[..., Any]:
        @own.function
        def add(x: int) -> int:
            return x + n

        return add

    one, two, double = make(1), make(2), own.function(lambda x: 2 * x)
    refs = [ref_of(function) for function in (one, two, double)]
    assert {ref.transport for ref in refs} == {"pickle"}
    assert len({ref.digest for ref in refs}) == 1 and len({ref.qualname for ref in refs}) == 3
    entries = pickle.loads(double._definer.define().bundle.content)  # type: ignore[union-attr]
    assert [entries[ref.qualname].target(10) for ref in refs] == [11, 12, 20]
    three = make(3)
    assert ref_of(three).digest != refs[0].digest
    assert ref_of(one).digest == refs[0].digest  # what has not changed stays where it is


def test_a_function_that_cannot_travel_names_the_variable_and_spoils_no_other() -> None:
    own = deepserve.App("locks")
    guard = threading.Lock()
    fine = own.function(lambda: 1)
    broken = own.function(lambda: guard)
    with pytest.raises(UnpicklableFunction, match=r"`guard` \(threading.Lock\), captured by .* at test_code.py:"):
        broken.remote()
    assert ref_of(fine).transport == "pickle"


def test_what_a_dumped_function_calls_in_another_app_is_in_its_dump() -> None:
    one, other = deepserve.App("one"), deepserve.App("other")
    called = other.function(lambda: 1)
    caller = one.function(lambda: called.remote())
    entries = pickle.loads(caller._definer.define().bundle.content)  # type: ignore[union-attr]
    assert sorted(key.partition("/")[0] for key in entries) == ["one", "other"]


def test_own_retry_classes_are_not_lost_by_name() -> None:
    assert ref_of(named.with_options(retries=deepserve.Retries(1, on=(KeyError,)))).transport == "pickle"


# --- inside a pod -------------------------------------------------------------------------------------


@pytest.fixture
def in_pod(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[CodeRef], None]]:
    tokens = []
    monkeypatch.setattr(_context, "_bound_code", None)
    yield lambda code: tokens.append(_context.current_task.set(TaskContext("rq-1", "task-1", code=code)))
    for token in reversed(tokens):
        _context.current_task.reset(token)


def test_in_a_pod_a_function_comes_from_the_pods_own_bundle(in_pod: Callable[[CodeRef], None]) -> None:
    in_pod(CodeRef("bundle", "app", "parent", "abc", "app", root="/home/user"))
    fresh = named.with_options(name="fresh")
    definition = fresh._definer.define()
    assert ref_of(fresh) == CodeRef("bundle", __name__, "named", "abc", "app", root="/home/user")
    assert (definition.bundle, definition.reach) == (None, EVERYTHING)


def test_in_a_pod_a_dumped_function_comes_from_the_pods_own_dump(in_pod: Callable[[CodeRef], None]) -> None:
    own = deepserve.App("dumped")

    @own.function
    def fib(n: int) -> int:
        return n if n < 2 else fib.remote(n - 1) + fib.remote(n - 2)

    definition = fib._definer.define()
    assert definition.bundle is not None and definition.spec is not None
    back = pickle.loads(definition.bundle.content)[definition.spec.code.qualname]
    in_pod(definition.spec.code)
    inner = back.target.__closure__[0].cell_contents
    assert type(inner) is type(fib) and inner is not fib
    assert inner._definer.define().spec == definition.spec
    assert inner._definer.define().function_id == definition.function_id
    assert inner._definer.define().bundle is None


def test_threads_of_user_code_know_the_pods_code(in_pod: Callable[[CodeRef], None]) -> None:
    in_pod(CodeRef("bundle", "app", "parent", "abc", "app"))
    assert code_of_named() == "abc"
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(code_of_named()))
    thread.start()
    thread.join()
    assert found == ["abc"]


def code_of_named() -> str:
    definer = named.with_options(name="again")._definer
    return definer.define().spec.code.digest  # type: ignore[union-attr]


# --- scripts ------------------------------------------------------------------------------------------

SCRIPT = """
import sys, pickle
import deepserve

class Boom(Exception): pass

@deepserve.function
def f(): ...

if __name__ == "__main__":
    code = f.spec.code
    assert (code.transport, code.module, code.main_module, code.root) == ("bundle", NAME, NAME, ROOT), code
    assert f.app.name == NAME.rpartition(".")[2]
    assert sys.modules[NAME] is sys.modules["__main__"]
    assert f._definer.define().reach == (True, True)
    print("fine")
"""


def run(*arguments: str, cwd: Path, stdin: str | None = None) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, input=stdin, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_script_is_called_after_its_file(tmp_path: Path) -> None:
    script = SCRIPT.replace("ROOT", repr(str(tmp_path))).replace("NAME", "'app'")
    (tmp_path / "app.py").write_text(script)
    assert run("app.py", cwd=tmp_path) == "fine\n"


def test_a_module_that_is_run_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/app.py").write_text(SCRIPT.replace("ROOT", repr(str(tmp_path))).replace("NAME", "'pkg.app'"))
    assert run("-m", "pkg.app", cwd=tmp_path) == "fine\n"


def test_code_without_a_file_travels_as_a_dump(tmp_path: Path) -> None:
    text = "import deepserve\n@deepserve.function\ndef f(): ...\nprint(f.spec.code.transport, f.app.name)\n"
    assert run("-c", text, cwd=tmp_path) == "pickle interactive\n"
    assert run("-", cwd=tmp_path, stdin=text) == "pickle interactive\n"
