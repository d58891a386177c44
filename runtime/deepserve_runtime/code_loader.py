"""From a CodeRef to the user's function or class, with the `__main__` rule."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deepserve.protocol.specs import CodeRef
from deepserve_runtime import sdk
from deepserve_runtime.bundle_store import BundleStore

MAIN_ALIASES = ("__main__", "__mp_main__")


def load_entry(code: CodeRef, store: BundleStore) -> sdk.Entry:
    """Raises whatever the user's import raises, and PythonVersionMismatch before any foreign byte is unpickled."""
    if code.transport == "pickle":
        return _load_dump(code, store)
    if code.transport == "bundle":
        folder = store.files(code.digest)
        if folder not in sys.path:
            sys.path.insert(0, folder)
            importlib.invalidate_caches()
        return sdk.entry_of(_look_up(_import_bundled(code, folder), code.qualname))
    return sdk.entry_of(_look_up(importlib.import_module(code.module), code.qualname))


def _load_dump(code: CodeRef, store: BundleStore) -> sdk.Entry:
    if code.python != sdk.PYTHON:
        raise sdk.errors.PythonVersionMismatch(
            f"{code.qualname} was pickled by Python {code.python or '(unknown)'}; this pod runs {sdk.PYTHON}"
        )
    with importing(code.module):
        entries: dict[str, Any] = pickle.loads(store.dump(code.digest))
    if code.qualname not in entries:
        raise AttributeError(f"the pickled code holds no {code.qualname!r}")
    found = entries[code.qualname]
    return found if isinstance(found, sdk.Entry) else sdk.entry_of(found)


def _import_bundled(code: CodeRef, folder: str) -> types.ModuleType:
    if not code.main_module:
        return _import(code.module, folder)
    if code.module in (code.main_module, *MAIN_ALIASES):
        return _import_main(code.main_module, folder)
    # The script itself is needed only where a value mentions one of its classes.
    for alias in MAIN_ALIASES:
        sys.modules[alias] = _LateMain(alias, code.main_module, folder)
    return _import(code.module, folder)


def _import_main(name: str, folder: str) -> types.ModuleType:
    """Imports the script under its file's name, so that its `if __name__ == "__main__"` stays closed."""
    module = _import(name, folder)
    for alias in MAIN_ALIASES:
        sys.modules[alias] = module
    if module.__file__:
        sys.argv = [module.__file__]
    return module


def _import(name: str, folder: str) -> types.ModuleType:
    """The bundle's module `name`, also where the environment had already loaded another of that name."""
    with importing(name):
        loaded = sys.modules.get(name)
        if loaded is None or _is_under(loaded, folder) or (path := _file_of(name, folder)) is None:
            return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            sys.modules[name] = loaded
            raise
        return module


def _is_under(module: types.ModuleType, folder: str) -> bool:
    return str(getattr(module, "__file__", None) or "").startswith(f"{folder}/")


def _file_of(name: str, folder: str) -> str | None:
    base = os.path.join(folder, *name.split("."))
    for path in (os.path.join(base, "__init__.py"), base + ".py"):
        if os.path.isfile(path):
            return path
    return None


@contextmanager
def importing(name: str) -> Iterator[None]:
    """While it is entered, the SDK refuses remote calls: they stand unguarded at the top level of a module."""
    outer, sdk.context.importing = sdk.context.importing, name
    try:
        yield
    except ModuleNotFoundError as error:
        error.add_note(f"pods run {sys.executable}; under `deepserve up` that is the controller's Python")
        raise
    finally:
        sdk.context.importing = outer


def _look_up(module: types.ModuleType, qualname: str) -> Any:
    found: Any = module
    for part in qualname.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            why = "what stands under `if __name__ == '__main__':` is not there: define it at the top level of the file"
            raise AttributeError(f"{module.__name__} has no {qualname!r} when a pod imports it; {why}") from None
    return found


class _LateMain(types.ModuleType):
    """Stands for `__main__` until a name of the script is asked for."""

    def __init__(self, alias: str, main_module: str, folder: str) -> None:
        super().__init__(alias)
        self.__dict__["_script"] = (main_module, folder)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        main_module, folder = self.__dict__["_script"]
        return getattr(_import_main(main_module, folder), name)
