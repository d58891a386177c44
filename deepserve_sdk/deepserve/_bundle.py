"""Code bundles: the user's own files that a function needs, content-addressed; never data or installed packages.

Taken are the modules that are loaded from under the root of the function's module, what these import from there
by import statements (also inside functions), and all files of the regular packages among them.
"""

from __future__ import annotations

import ast
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import NamedTuple

import msgspec

from deepserve._definition import Bundle
from deepserve._installed import is_installed, is_installed_file
from deepserve.errors import ValueTooLarge
from deepserve.protocol.digest import sha256
from deepserve.settings import current_settings

_parsing = threading.Lock()
"""Python 3.11's ast.parse counts its depth for all threads together and fails where two parse side by side."""


class Home(NamedTuple):
    """Where a module is imported from: file `root`/a/b.py as module `a.b`."""

    root: str
    module: str
    file: str


def home_of(module_name: str) -> Home | None:
    """The module's place among files; None where its file is not importable under its name (REPL, exec)."""
    module = sys.modules.get(module_name)
    file = getattr(module, "__file__", None)
    if module is None or not file or not file.endswith(".py") or not os.path.isfile(file):
        return None
    file = os.path.abspath(file)
    name = main_name(module, file) if module_name in ("__main__", "__mp_main__") else module_name
    parts = name.split(".")
    if os.path.basename(file) == "__init__.py":
        parts.append("__init__")
    root = file[: -len(".py")]
    for part in reversed(parts):
        root, last = os.path.split(root)
        if last != part:
            return None
    return Home(root, name, file)


def main_name(main: ModuleType, file: str) -> str:
    """The name under which a pod imports the script: its module name when run with -m, else its file's stem."""
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name != "__main__":
        return str(spec.name)
    return os.path.splitext(os.path.basename(file))[0]


# --- collecting files -------------------------------------------------------------------------------

_bundles: dict[str, tuple[frozenset[str], Bundle]] = {}
"""By root: which files went into the newest bundle, and the bundle."""


def bundle_of(home: Home) -> Bundle:
    """The bundle that holds the module of `home`; taken once, again only for a module that it lacks.

    Raises ValueTooLarge naming the biggest files.
    """
    known = _bundles.get(home.root)
    if known is None or home.file not in known[0]:
        files = collect(home)
        known = _bundles[home.root] = (frozenset(files), pack(home.root, files))
    return known[1]


def collect(home: Home) -> list[str]:
    """Absolute names of the files to ship, sorted."""
    collector = _Collector(home.root)
    collector.add(home.file)
    for name in list(sys.modules):
        if not is_installed(name) and (other := home_of(name)) is not None and other.root == home.root:
            collector.add(other.file)
    return collector.finish()


class _Collector:
    def __init__(self, root: str) -> None:
        self._root = root
        self._files: set[str] = set()
        self._pending: list[str] = []

    def add(self, file: str) -> None:
        """Take a file, the `__init__.py` above it, and the whole of a regular package."""
        if file in self._files or not self._may_ship(file):
            return
        self._files.add(file)
        self._pending.append(file)
        top = os.path.join(self._root, os.path.relpath(file, self._root).split(os.sep)[0])
        if os.path.isfile(os.path.join(top, "__init__.py")):
            for sibling in _python_files(top):
                self.add(sibling)

    def finish(self) -> list[str]:
        while self._pending:
            file = self._pending.pop()
            for name in _imported_names(file, self._root):
                for candidate in self._candidates(name):
                    self.add(candidate)
        return sorted(self._files)

    def _candidates(self, name: str) -> Iterator[str]:
        path = os.path.join(self._root, *name.split("."))
        for candidate in (path + ".py", os.path.join(path, "__init__.py")):
            if os.path.isfile(candidate):
                yield candidate

    def _may_ship(self, file: str) -> bool:
        inside = os.path.relpath(file, self._root)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.split(os.sep))
        return not hidden and not is_installed_file(file)


def _python_files(folder: str) -> Iterator[str]:
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and name != "__pycache__"
            and not os.path.exists(os.path.join(where, name, "pyvenv.cfg"))
        )
        yield from (os.path.join(where, name) for name in sorted(files) if name.endswith(".py"))


def _imported_names(file: str, root: str) -> Iterator[str]:
    """Dotted names that the file's import statements may mean, wherever they stand."""
    try:
        with open(file, "rb") as source:
            text = source.read()
        with _parsing:
            tree = ast.parse(text, file)
    except (OSError, SyntaxError, ValueError):
        return
    package = os.path.relpath(os.path.dirname(file), root).replace(os.sep, ".").strip(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = _resolve(node, package)
            yield from _with_parents(base)
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names if alias.name != "*")


def _resolve(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".") if package else []
    parts = parts[: len(parts) - (node.level - 1)] if node.level > 1 else parts
    return ".".join([*parts, *([node.module] if node.module else [])])


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".") if name else []
    yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


# --- packing ----------------------------------------------------------------------------------------


def pack(root: str, files: Iterable[str]) -> Bundle:
    """A MessagePack map of names to contents, which is the same for the same files, whenever it is made."""
    contents: list[tuple[str, bytes]] = []
    for file in files:
        with open(file, "rb") as source:
            contents.append((os.path.relpath(file, root), source.read()))
    contents.sort()
    check_size(contents)
    digest = sha256()
    for name, content in contents:
        digest.update(f"{name}\0{sha256(content).hexdigest()}\n".encode())
    return Bundle(digest.hexdigest()[:40], "files", msgspec.msgpack.encode(dict(contents)), root)


def check_size(contents: list[tuple[str, bytes]]) -> None:
    limit_bytes = current_settings().max_bundle_bytes
    total_bytes = sum(len(content) for _, content in contents)
    if total_bytes <= limit_bytes:
        return
    biggest = sorted(contents, key=lambda item: -len(item[1]))[:5]
    named = ", ".join(f"{name} ({len(content):,} bytes)" for name, content in biggest)
    raise ValueTooLarge(
        f"the code to ship has {total_bytes:,} bytes; the limit is {limit_bytes:,} (DEEPSERVE_MAX_BUNDLE_BYTES). "
        f"The biggest files: {named}"
    )
