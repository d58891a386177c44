"""Modules that a package imports at its start and nobody here needs: left out, and there as soon as they may be."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.abc import Loader
else:
    Loader = object  # whose module takes pathlib and more to import


@contextmanager
def omitting(names: Iterable[str], needed_by: Iterable[str]) -> Iterator[None]:
    """While it is entered, modules of these full names are imported empty.

    All of them are imported in truth by the first of: a use of anything in one; the import of one of `needed_by`; and
    after the block, the import of any further module of their package, for which nobody can say whether it needs them.
    """
    omitted = OmittedModules(names, needed_by)
    sys.meta_path.insert(0, omitted)
    try:
        yield
    finally:
        omitted.close()


class OmittedModules:
    """Asked first for each module that is not loaded yet; see `omitting`."""

    def __init__(self, names: Iterable[str], needed_by: Iterable[str]) -> None:
        self._names = tuple(names)
        self._packages = tuple({name.partition(".")[0] + "." for name in self._names})
        self._needed_by = tuple(needed_by)
        self._is_open = True
        self._stubs: list[ModuleType] = []

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if self._is_open and name in self._names:
            return ModuleSpec(name, _EmptyLoader(self))
        is_needed = name in self._needed_by if self._is_open else name.startswith(self._packages)
        if is_needed and self._stubs:
            self.complete(but=name)
        return None

    def add(self, stub: ModuleType) -> None:
        self._stubs.append(stub)

    def close(self) -> None:
        """From here on they are found where they are."""
        self._is_open = False
        for stub in self._stubs:
            _forget(stub)
        if not self._stubs:
            self._leave()

    def complete(self, but: str = "") -> None:
        """but: the one that is being imported anyway."""
        self._leave()
        stubs, self._stubs = self._stubs, []
        for stub in stubs:
            _forget(stub)
        for stub in stubs:
            if stub.__name__ != but:
                import_module(stub.__name__)

    def _leave(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)


class _EmptyLoader(Loader):
    def __init__(self, omitted: OmittedModules) -> None:
        self._omitted = omitted

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Stub(spec.name, self._omitted)

    def exec_module(self, module: ModuleType) -> None:
        self._omitted.add(module)


class _Stub(ModuleType):
    """Whoever has it and wants something of it gets the real module's."""

    def __init__(self, name: str, omitted: OmittedModules) -> None:
        super().__init__(name)
        self.__dict__["_omitted"] = omitted

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # whoever looks through all modules, such as inspect
            raise AttributeError(name)
        self.__dict__["_omitted"].complete()
        return getattr(import_module(self.__name__), name)


def _forget(stub: ModuleType) -> None:
    """The next import is of the real one."""
    if sys.modules.get(stub.__name__) is stub:
        del sys.modules[stub.__name__]
    package, _, name = stub.__name__.rpartition(".")
    if getattr(sys.modules.get(package), "__dict__", {}).get(name) is stub:
        delattr(sys.modules[package], name)
