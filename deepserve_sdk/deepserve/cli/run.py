"""`deepserve run`."""

from __future__ import annotations

import ast
import inspect
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepserve._function import Function
from deepserve.cli.arguments import called_as, parse_arguments, usage_of
from deepserve.cli.exit_codes import OK, UsageError
from deepserve.cli.user_file import UserFile, load_user_file, place_of, split_target


def run_target(target: str, arguments: list[str]) -> int:
    """Run an entry point here, or a function in a pod, and print what a function returned.

    A file without an entry point but with a main guard runs as a script.
    """
    path, name = split_target(target)
    if not name and is_script(path):
        run_script(path, arguments)
        return OK
    user = load_user_file(path)
    runnable = choose(user, name)
    label = f"{path.name}::{runnable.__name__}"
    signature_of = called_as(runnable)
    if "--help" in arguments:
        print(f"usage: deepserve run {usage_of(label, inspect.signature(signature_of))}")
        return OK
    keywords = parse_arguments(label, signature_of, arguments)
    if isinstance(runnable, Function):
        run_function(runnable, keywords)
    else:
        run_entrypoint(runnable, keywords)
    return OK


def is_script(path: Path) -> bool:
    """The file has a main guard and no local entry point: it is run as `python file` runs it."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        return False  # importing it will tell
    guards = (node for node in tree.body if isinstance(node, ast.If))
    has_guard = any("__name__" in (text := ast.unparse(guard.test)) and "__main__" in text for guard in guards)
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return has_guard and "local_entrypoint" not in names


def run_script(path: Path, arguments: list[str]) -> None:
    sys.argv = [str(path), *arguments]
    root, name = place_of(path)
    sys.path.insert(0, str(root))
    if "." in name:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(str(path), run_name="__main__")


def run_entrypoint(entrypoint: Callable[..., Any], keywords: dict[str, Any]) -> None:
    """In this process; a coroutine function gets an event loop."""
    result = entrypoint(**keywords)
    if inspect.iscoroutine(result):
        import asyncio

        asyncio.run(result)


def run_function(function: Function[..., Any], keywords: dict[str, Any]) -> None:
    """Items of a generator are printed as they come."""
    result: Any = function.remote(**keywords)
    if function.is_generator:
        for item in result:
            print(item, flush=True)
    elif result is not None:
        print(result)


def choose(user: UserFile, name: str) -> Callable[..., Any]:
    """What `app.py` or `app.py::name` means. Raises UsageError listing what there is."""
    entrypoints: dict[str, Callable[..., Any]] = {}
    functions: dict[str, Function[..., Any]] = {}
    for app in user.apps:
        entrypoints.update(app.entrypoints)
        functions.update({key: member for key, member in app.functions.items() if isinstance(member, Function)})
    if name:
        found = entrypoints.get(name) or functions.get(name)
        if found is None:
            raise UsageError(f"{user.path.name} has no {name!r}; it has: {listing(entrypoints, functions)}")
        return found
    choices: dict[str, Callable[..., Any]] = {**(entrypoints or functions)}
    if len(choices) == 1:
        return next(iter(choices.values()))
    if not entrypoints and not functions:
        raise UsageError(f"{user.path.name} has neither an entry point nor a function of DeepServe")
    raise UsageError(f"name one, as {user.path.name}::NAME; there are: {listing(entrypoints, functions)}")


def listing(*groups: dict[str, Any]) -> str:
    return ", ".join(sorted(name for group in groups for name in group)) or "nothing"
