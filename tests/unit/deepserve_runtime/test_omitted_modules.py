"""Left out of a package's import, and there for whoever comes to need them."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from deepserve_runtime.omitted_modules import OmittedModules, omitting

FILES = {
    "__init__": "from big import rules\nimport big.more.rules as others\nimport big.own",
    "own": "IS_HERE = True",
    "rules": "import big\nbig.has_rules = True\nNUMBER = 7",
    "more/__init__": "",
    "more/rules": "NUMBER = 8",
    "compiler": "import big\nKNEW_RULES = big.has_rules",
    "backend": "import big.compiler",
}
OMITTED = ("big.rules", "big.more.rules")


@pytest.fixture
def big(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, text in FILES.items():
        file = tmp_path / "big" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield "big"
    for name in [name for name in sys.modules if name.split(".")[0] == "big"]:
        del sys.modules[name]
    assert not [finder for finder in sys.meta_path if isinstance(finder, OmittedModules)], "all tests bring them"


def test_the_package_is_there_without_them(big: str) -> None:
    with omitting(OMITTED, needed_by=["big.compiler"]):
        package = import_module(big)
    assert package.own.IS_HERE and not hasattr(package, "has_rules")
    assert not [name for name in OMITTED if name in sys.modules] and not hasattr(package, "rules")
    import_module("big.compiler")


def test_who_looks_through_all_modules_does_not_bring_them(big: str) -> None:
    with omitting(OMITTED, needed_by=["big.compiler"]):
        package = import_module(big)
        assert inspect.getmodule(test_the_package_is_there_without_them) is sys.modules[__name__]
        assert not hasattr(package, "has_rules")
        package.rules.NUMBER  # noqa: B018


@pytest.mark.parametrize(
    "bring",
    [
        lambda: import_module("big.compiler"),
        lambda: import_module("big.backend"),
        lambda: import_module("big.rules"),
        lambda: import_module("big.more.rules"),
    ],
)
def test_whoever_imports_more_of_it_has_them_first(big: str, bring: Callable[[], object]) -> None:
    with omitting(OMITTED, needed_by=["big.compiler"]):
        package = import_module(big)
    bring()
    assert package.has_rules and package.rules.NUMBER == 7 and package.more.rules.NUMBER == 8
    assert import_module("big.compiler").KNEW_RULES


def test_what_needs_them_while_the_package_is_imported_has_them(big: str) -> None:
    with omitting(OMITTED, needed_by=["big.compiler"]):
        package = import_module(big)
        assert not hasattr(package, "has_rules")
        import_module("big.backend")
        assert package.has_rules and package.rules.NUMBER == 7


def test_a_use_of_one_is_a_use_of_the_real_one(big: str) -> None:
    with omitting(OMITTED, needed_by=["big.compiler"]):
        kept = import_module(big).rules
    assert kept.NUMBER == 7 and kept is not sys.modules["big.rules"]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        kept.nothing  # noqa: B018


def test_a_package_that_has_no_such_modules_is_imported_as_ever(big: str) -> None:
    with omitting(["big.missing"], needed_by=["big.compiler"]):
        package = import_module(big)
    assert package.has_rules


def test_torch_is_whole_for_who_computes_without_data() -> None:
    """The engine's own imports bring nothing of it; the rules of all operators come with the first that asks."""
    pytest.importorskip("torch")
    code = """
import sys
from deepserve_runtime.environments import OMITTED_MODULES, load_environment, use_one_thread
use_one_thread()
load_environment("flowserve")
import torch
assert not [name for name in OMITTED_MODULES if name in sys.modules]
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    print(tuple(torch.linalg.qr(torch.empty(3, 2)).Q.shape), torch.where(torch.empty(2) > 0, 1.0, 0.0).dtype)
assert not [name for name in OMITTED_MODULES if name not in sys.modules]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "(3, 2) torch.float32\n", done.stdout + done.stderr
