"""The user's file, imported once: its apps, functions and entry points."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from deepserve._app import App, apps_of_module
from deepserve.cli.exit_codes import UsageError, UserCodeFailed


@dataclass(frozen=True)
class UserFile:
    path: Path
    module: ModuleType
    apps: list[App]


def split_target(target: str) -> tuple[Path, str]:
    """`app.py::name` as (path, name); name is empty where none was given. Raises UsageError."""
    file, _, name = target.partition("::")
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"no such file: {file}")
    if path.suffix != ".py":
        raise UsageError(f"{file} is no Python file")
    return path.resolve(), name


def load_user_file(path: Path) -> UserFile:
    """Import `path` under its own name, with its folder first on `sys.path` as `python path` has it.

    Raises UserCodeFailed (with the cause) where the file's own top level raises.
    """
    name = path.stem
    if name in sys.modules:
        raise UsageError(f"{path.name}: a module named {name!r} is loaded already; rename the file")
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserCodeFailed(f"{path.name} could not be imported") from error
    return UserFile(path, module, apps_of_module(module))
