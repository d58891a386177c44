"""The `__main__` rule, in a child interpreter each: importing changes sys.modules."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from deepserve_runtime import sdk
from deepserve_runtime.code_loader import importing

APP = """
class Boom(Exception):
    pass

def f():
    return __name__

ran = __name__ == "__main__"
"""
PRELUDE = """
import json, pickle, sys
from pathlib import Path
from deepserve.protocol.specs import CodeRef
from deepserve_runtime.bundle_store import BundleStore
from deepserve_runtime.code_loader import load_entry
from deepserve_runtime import sdk

def load(module, qualname, main="", digest="d"):
    store = BundleStore(sys.argv[1], lambda digest: b"")
    return load_entry(CodeRef("bundle", module, qualname, digest, main, sdk.PYTHON), store).target

def show(value):
    print(json.dumps(value))
"""


def test_an_import_inside_an_import_leaves_the_outer_one_guarded() -> None:
    with importing("outer"):
        with importing("inner"):
            assert sdk.context.importing == "inner"
        assert sdk.context.importing == "outer"
    assert sdk.context.importing == ""


def run(bundles: Path, code: str) -> object:
    """The bundle `d` is the folder bundles/d; what the code shows comes back."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(bundles)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "d"
    (folder / "pkg").mkdir(parents=True)
    (folder / "app.py").write_text(
        "class Boom(Exception): pass\ndef f(): return __name__\nran = __name__ == '__main__'\n"
    )
    (folder / "pkg" / "__init__.py").write_text("")
    (folder / "pkg" / "part.py").write_text("from . import other\ndef g(): return other.__name__\n")
    (folder / "pkg" / "other.py").write_text("")
    (folder / "random.py").write_text("def f(): return 'of the user'\n")
    (folder / "my-script.py").write_text("def f(): return __name__\n")
    return tmp_path


def test_the_script_is_imported_under_its_files_name_and_is_main_too(bundle: Path) -> None:
    code = """
        f = load("app", "f", main="app")
        import app, __main__, __mp_main__
        show([f(), app.ran, __main__ is app, __mp_main__ is app])
    """
    assert run(bundle, code) == ["app", False, True, True]


def test_what_is_not_there_in_a_pod_is_said_with_the_reason(bundle: Path) -> None:
    (bundle / "d" / "guarded.py").write_text("if __name__ == '__main__':\n    def f(): ...\n")
    code = """
        try:
            load("guarded", "f", main="guarded")
        except AttributeError as error:
            show(str(error))
    """
    assert "what stands under `if __name__ == '__main__':` is not there" in run(bundle, code)


def test_main_as_a_modules_name_is_the_script(bundle: Path) -> None:
    assert run(bundle, 'show(load("__main__", "f", main="app")())') == "app"


def test_a_script_beside_the_functions_module_is_imported_when_one_of_its_names_is_asked_for(bundle: Path) -> None:
    code = """
        g = load("pkg.part", "g", main="app")
        late = "app" not in sys.modules
        boom = pickle.loads(b"c__main__\\nBoom\\n.")
        show([g(), late, boom.__module__, boom is sys.modules["app"].Boom])
    """
    assert run(bundle, code) == ["pkg.other", True, "app", True]


def test_a_users_module_may_have_the_name_of_one_that_is_loaded_already(bundle: Path) -> None:
    assert run(bundle, 'import random\nshow(load("random", "f", main="random")())') == "of the user"


def test_a_script_need_not_have_a_modules_name(bundle: Path) -> None:
    assert run(bundle, 'show(load("my-script", "f", main="my-script")())') == "my-script"


def test_a_name_that_is_not_there_is_said(bundle: Path) -> None:
    code = """
        try:
            load("app", "Outer.inner", main="app")
        except AttributeError as error:
            show(str(error))
    """
    assert "app has no 'Outer.inner'" in str(run(bundle, code))


def test_remote_calls_are_refused_during_the_import_only(bundle: Path) -> None:
    (bundle / "d" / "asks.py").write_text("from deepserve import _context\nseen = _context.importing\ndef f(): pass\n")
    assert run(bundle, 'load("asks", "f")\nimport asks\nshow([asks.seen, sdk.context.importing])') == ["asks", ""]


def test_a_missing_module_names_the_interpreter() -> None:
    with pytest.raises(ModuleNotFoundError) as caught, importing("app"):
        raise ModuleNotFoundError("No module named 'x'")
    assert sys.executable in caught.value.__notes__[0]
