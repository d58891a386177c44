"""Where a pod finds a function's code: shipped files, one dump, an installed package, or the caller's own bundle."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from deepserve import _context
from deepserve._bundle import Home, bundle_of, home_of
from deepserve._definition import Bundle
from deepserve._installed import is_installed
from deepserve._model_source import sources_named_under
from deepserve._pickling import EVERYTHING, NOTHING, PYTHON, Reach, dump_by_value, look_up
from deepserve.errors import UnpicklableFunction
from deepserve.protocol.digest import sha256
from deepserve.protocol.specs import CodeRef

if TYPE_CHECKING:
    from deepserve._app import App
    from deepserve._entry import Entry
    from deepserve._function import Function

MAIN = ("__main__", "__mp_main__")


class Code(NamedTuple):
    """bundle: None where the controller has it already, or nothing is shipped."""

    ref: CodeRef
    bundle: Bundle | None
    reach: Reach
    """Which of this process's modules the pod can import."""


class Named(NamedTuple):
    """A decorated object that asks where its code is. key: its name in its app's dump, if it came out of one."""

    entry: Entry
    app: App
    module: str
    qualname: str
    key: str


def code_of(named: Named) -> Code:
    """Raises UnpicklableFunction, ValueTooLarge."""
    bound = _context.bound_code()
    if bound is not None and (inherited := _code_in_pod(named, bound)) is not None:
        return inherited
    if is_found_by_name(named):
        if is_installed(named.module):
            return Code(CodeRef("builtin", named.module, named.qualname), None, NOTHING)
        home = home_of(named.module)
        if home is not None:
            return _code_in_files(named, home)
    return _code_in_dump(named)


def is_found_by_name(named: Named) -> bool:
    """The pod, importing the module, will find this very entry."""
    found = look_up(named.module, named.qualname)
    if found is named.entry.target:
        return named.entry.retry_on == (Exception,) and not named.entry.never_on
    return getattr(found, "__deepserve_entry__", None) == named.entry


def _code_in_pod(named: Named, bound: CodeRef) -> Code | None:
    """Functions of the bundle that this pod runs need no shipping again."""
    if bound.transport == "pickle":
        if named.key:
            return Code(msgspec.structs.replace(bound, qualname=named.key), None, EVERYTHING)
        return None
    if not is_found_by_name(named):
        return None
    if is_installed(named.module):
        return Code(CodeRef("builtin", named.module, named.qualname), None, NOTHING)
    if bound.transport != "bundle":
        return None
    module = bound.main_module if named.module in MAIN else named.module
    return Code(msgspec.structs.replace(bound, module=module, qualname=named.qualname), None, EVERYTHING)


def _code_in_files(named: Named, home: Home) -> Code:
    bundle = bundle_of(home)
    main = home_of("__main__")
    main_module = main.module if main is not None and main.root == home.root and not is_installed("__main__") else ""
    if main_module:
        sys.modules.setdefault(main_module, sys.modules["__main__"])
    sources = sources_named_under(home.root)
    ref = CodeRef("bundle", home.module, named.qualname, bundle.digest, main_module, root=home.root, sources=sources)
    return Code(ref, bundle, Reach(main=bool(main_module)))


def _code_in_dump(named: Named) -> Code:
    bundle, key = named.app.dump_with(named.entry)
    return Code(CodeRef("pickle", named.module, key, bundle.digest, python=PYTHON), bundle, NOTHING)


def dump_entries(entries: dict[str, Entry], asked: str) -> Bundle:
    """One cloudpickle dump of all, and of what they reach in other apps.

    Without those that cannot be pickled, as long as the asked one can. Raises UnpicklableFunction naming the variable.
    """
    try:
        content = _dump_with_reached(entries)
    except Exception:
        try:
            dump_by_value(entries[asked])
        except Exception as error:
            from deepserve._culprit import explain

            raise UnpicklableFunction(explain(entries[asked].target, error)) from error
        content = _dump_with_reached({key: entry for key, entry in entries.items() if _can_travel(entry)})
    return Bundle(sha256(content).hexdigest()[:40], "pickle", content)


def _dump_with_reached(entries: dict[str, Entry]) -> bytes:
    """A pod finds what its function calls in the dump that it came out of."""
    entries = dict(entries)
    while True:
        reached: dict[str, Entry] = {}

        def reach(function: Function[..., Any], reached: dict[str, Entry] = reached) -> None:
            if function.key:
                reached[function.key] = function.__deepserve_entry__

        content = dump_by_value(entries, on_decorated=reach)
        if reached.keys() <= entries.keys():
            return content
        entries |= reached


def _can_travel(entry: Entry) -> bool:
    try:
        dump_by_value(entry)
    except Exception:
        return False
    return True
