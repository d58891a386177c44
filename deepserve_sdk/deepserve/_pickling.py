"""Objects to pickle bytes: the C pickler where it can, cloudpickle where code must travel by value.

What `__main__` holds under its own name travels by name where the other side has the same file as `__main__`
(`Reach`), because a class that is rebuilt by value is another class.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

from deepserve._installed import is_installed

BufferCallback = Callable[[pickle.PickleBuffer], Any]

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""What `Value.python` says where code travels by value."""


class Pickled(NamedTuple):
    data: list[bytes | bytearray]
    """Pieces of one pickle; a large `bytes` or `str` inside is a piece of its own, not copied."""
    buffers: list[pickle.PickleBuffer]
    by_value: bool
    """Code may be inside: only the same Python version may load it."""


class CannotPickle(Exception):
    """Neither pickler takes the object; `__cause__` is what the last one said."""


class Reach(NamedTuple):
    """What the reader can import by name of this process's own files (installed packages it always can)."""

    main: bool = True
    modules: bool = True


EVERYTHING = Reach()
NOTHING = Reach(False, False)


class _Pieces(list[Any]):
    """A file that keeps what is written into it as it comes."""

    __slots__ = ()
    write = list.append


PIECE_BYTES = 64 << 10
"""The pickler writes what is larger without copying it, where it has a file to write to."""

_was_large = False
"""The last pickle of this process held a large piece: a file is slower for small values and saves large ones a copy."""


def dump_small(obj: Any) -> bytes | Pickled | None:
    """What most values need: the pickle of one that is small and names nothing of `__main__`; `Pickled` where it has
    buffers. None where it takes more, which `dump` finds out.
    """
    global _was_large
    if _was_large:
        return None
    buffers: list[pickle.PickleBuffer] = []
    try:
        data = pickle.dumps(obj, protocol=5, buffer_callback=buffers.append)
    except Exception:
        return None
    if len(data) >= PIECE_BYTES:
        _was_large = True
        return None
    if b"__main__" in data:
        return None
    return Pickled([data], buffers, False) if buffers else data


def dump(obj: Any, *, by_value_ok: bool = True, reach: Reach = EVERYTHING, is_large: bool = False) -> Pickled:
    """Protocol 5 with out-of-band buffers. Raises CannotPickle.

    is_large: bytes or text of PIECE_BYTES or more are known to be inside; what is not known costs them a copy.
    """
    global _was_large
    buffers: list[pickle.PickleBuffer] = []
    data: list[Any]
    try:
        if is_large or _was_large:
            data = _Pieces()
            pickle.Pickler(data, 5, buffer_callback=buffers.append).dump(obj)
            _was_large = len(data) > 1
        else:
            data = [pickle.dumps(obj, protocol=5, buffer_callback=buffers.append)]
            if len(data[0]) >= PIECE_BYTES:
                _was_large = True
        if _is_reachable(data, reach):
            return Pickled(data, buffers, False)
    except Exception as error:  # a C pickler's refusal has many types; cloudpickle may still take the object
        if not by_value_ok:
            raise CannotPickle(str(error)) from error
    if reach.main and not main_has_file():
        reach = reach._replace(main=False)
    try:
        buffers = []
        return Pickled([dump_by_value(obj, reach=reach, buffer_callback=buffers.append)], buffers, True)
    except (Exception, RecursionError) as error:
        raise CannotPickle(str(error)) from error


def _is_reachable(data: list[Any], reach: Reach) -> bool:
    """Whether the reader can import all that the pickle names."""
    if reach.modules and reach.main and main_has_file():
        return True
    for piece in data:
        if len(data) > 1 and len(piece) >= 3 * PIECE_BYTES:
            continue  # bytes or text: names lie in between
        if b"__main__" in piece and not (reach.main and main_has_file()):
            return False
        if not reach.modules and any(module.__name__.encode() in piece for module in own_modules()):
            return False
    return True


def dump_by_value(
    obj: Any,
    *,
    reach: Reach = NOTHING,
    buffer_callback: BufferCallback | None = None,
    on_decorated: Callable[[Any], None] | None = None,
) -> bytes:
    """Cloudpickle, which takes lambdas, closures and local classes. Raises whatever it raises.

    on_decorated: told of every function of ours that is inside, by value.
    """
    target = io.BytesIO()
    with _by_value_modules([] if reach.modules else own_modules()):
        _by_value_pickler()(target, buffer_callback, reach.main, on_decorated).dump(obj)
    return target.getvalue()


_own_modules: tuple[int, list[types.ModuleType]] = (0, [])


def own_modules() -> list[types.ModuleType]:
    """Loaded modules of the user's own files, without `__main__`."""
    global _own_modules
    if _own_modules[0] != len(sys.modules):
        loaded = [module for name, module in list(sys.modules.items()) if _is_own(name, module)]
        _own_modules = (len(sys.modules), loaded)
    return _own_modules[1]


def _is_own(name: str, module: types.ModuleType) -> bool:
    if name in ("__main__", "__mp_main__") or module is sys.modules.get("__main__") or is_installed(name):
        return False
    return isinstance(module, types.ModuleType) and module.__name__ == name


@contextmanager
def _by_value_modules(modules: list[types.ModuleType]) -> Iterator[None]:
    """Cloudpickle takes what these modules hold by value meanwhile."""
    if not modules:
        yield
        return
    import cloudpickle

    added = [module for module in modules if module.__name__ not in cloudpickle.list_registry_pickle_by_value()]
    for module in added:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in added:
            cloudpickle.unregister_pickle_by_value(module)


@lru_cache(maxsize=1)
def _by_value_pickler() -> Callable[..., Any]:
    """The pickler class; made on first use, for cloudpickle is slow to import and rarely needed."""
    import cloudpickle

    class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
        def __init__(
            self,
            file: io.BytesIO,
            buffer_callback: BufferCallback | None,
            main_by_name: bool,
            on_decorated: Callable[[Any], None] | None,
        ) -> None:
            super().__init__(file, protocol=5, buffer_callback=buffer_callback)
            self._main_by_name = main_by_name
            self._on_decorated = on_decorated

        def reducer_override(self, obj: Any) -> Any:
            by_value = getattr(type(obj), "__deepserve_reduce__", None)
            if by_value is not None and not (self._main_by_name and is_name_in_main(obj)) and not _is_importable(obj):
                if self._on_decorated is not None:
                    self._on_decorated(obj)
                return by_value(obj)
            if self._main_by_name and isinstance(obj, type | types.FunctionType) and is_name_in_main(obj):
                return NotImplemented  # the C pickler then writes module and qualified name
            return super().reducer_override(obj)

    return ByValuePickler


def main_has_file() -> bool:
    """`__main__` is a script that a bundle can carry, not a REPL or notebook."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return file is not None and _is_file(file)


@lru_cache(maxsize=4)
def _is_file(file: str) -> bool:
    return os.path.isfile(file)


def is_name_in_main(obj: Any) -> bool:
    """`obj` is what `__main__` holds under its qualified name."""
    return getattr(obj, "__module__", None) == "__main__" and look_up("__main__", _qualname(obj)) is obj


def _is_importable(obj: Any) -> bool:
    module = getattr(obj, "__module__", None)
    if not isinstance(module, str) or module == "__main__" or look_up(module, _qualname(obj)) is not obj:
        return False
    import cloudpickle

    by_value = cloudpickle.list_registry_pickle_by_value()
    parts = module.split(".")
    return not any(".".join(parts[:end]) in by_value for end in range(1, len(parts) + 1))


def look_up(module: str, qualname: str) -> Any:
    """What `module` holds under `qualname`; None where there is no such module or name."""
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        if found is None or part == "<locals>":
            return None
        found = getattr(found, part, None)
    return found


def _qualname(obj: Any) -> str:
    name = getattr(obj, "__qualname__", None)
    return name if isinstance(name, str) else ""
