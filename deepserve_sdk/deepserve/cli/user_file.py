"""The user's file, imported once: its apps, functions and entry points."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from deepserve._app import App, apps_of_module
from deepserve._model import Model
from deepserve.cli.exit_codes import UsageError, UserCodeFailed


@dataclass(frozen=True)
class UserFile:
    path: Path
    module: ModuleType
    apps: list[App]
    models: list[Model]
    """Those at its top level."""


def split_target(target: str) -> tuple[Path, str]:
    """`app.py::name` as (path, name); name is empty where none was given. Raises UsageError."""
    file, _, name = target.partition("::")
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"no such file: {file}")
    if path.suffix != ".py":
        raise UsageError(f"{file} is no Python file")
    return path.resolve(), name


def place_of(path: Path) -> tuple[Path, str]:
    """Where `path` is imported from and as what, as `python -m` has it: above all folders with an `__init__.py`."""
    folder, parts = path.parent, [] if path.name == "__init__.py" else [path.stem]
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(parts) or path.stem


def load_user_file(path: Path) -> UserFile:
    """Import `path` under its own name, dotted in a package, with the folder that this is found in first on `sys.path`.

    Raises UserCodeFailed (with the cause) where the file's own top level raises, or a package's above it.
    """
    root, name = place_of(path)
    if name in sys.modules:
        raise UsageError(f"{path.name}: a module named {name!r} is loaded already; rename the file")
    sys.path.insert(0, str(root))
    try:
        module = import_package_file(path, name) if "." in name else import_file(path, name)
    except (Exception, SystemExit) as error:
        raise UserCodeFailed(f"{path.name} could not be imported") from error
    models = [value for value in vars(module).values() if isinstance(value, Model)]
    return UserFile(path, module, apps_of_module(module), list(dict.fromkeys(models)))


def import_package_file(path: Path, name: str) -> ModuleType:
    """Raises UsageError where another package of that name is in the way."""
    top = name.partition(".")[0]
    root = path.parents[name.count(".") if path.name != "__init__.py" else name.count(".") + 1]
    loaded = getattr(sys.modules.get(top), "__file__", None)
    if top in sys.modules and (loaded is None or Path(loaded).resolve() != root / top / "__init__.py"):
        raise UsageError(f"{path.name}: a module named {top!r} is loaded already; rename its folder")
    return importlib.import_module(name)


def import_file(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
