"""Command-line words as arguments of a Python signature."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

from deepserve.cli.exit_codes import UsageError

TRUTHS = ("true", "false")


def usage_of(name: str, signature: inspect.Signature) -> str:
    """One line: what may follow the target."""
    words = []
    for parameter in signature.parameters.values():
        flag = parameter.name.replace("_", "-")
        required = parameter.default is inspect.Parameter.empty
        words.append(f"--{flag} {parameter.name.upper()}" if required else f"[--{flag} {parameter.default!r}]")
    return f"{name} {' '.join(words)}".rstrip()


def parse_arguments(name: str, target: Callable[..., Any], words: list[str]) -> dict[str, Any]:
    """`--n 10 --verbose path.txt` as keyword arguments of `target`, converted by its type hints.

    Words without an option fill the parameters in order; a `bool` is set by `--x` and cleared by `--no-x`; anything
    but text may be given as JSON. Raises UsageError naming the parameter.
    """
    signature = inspect.signature(target)
    refuse_variadic(name, signature)
    hints = hints_of(target)
    given = collect_words(name, signature, hints, words)
    missing = [p.name for p in signature.parameters.values() if p.default is p.empty and p.name not in given]
    if missing:
        raise UsageError(f"{name} needs {', '.join(missing)}; usage: {usage_of(name, signature)}")
    return {key: convert(name, key, value, hints.get(key, Any)) for key, value in given.items()}


def called_as(target: Any) -> Any:
    """What is under its decorators, down to one that says how it is called (a batched function: with one item)."""
    return inspect.unwrap(target, stop=lambda found: hasattr(found, "__signature__"))


def refuse_variadic(name: str, signature: inspect.Signature) -> None:
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise UsageError(f"{name} takes *{parameter.name}: it cannot be called from the command line")


def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(called_as(target))
    except NameError:
        # A name that exists for type checkers only: arguments stay text or JSON.
        return {}


def collect_words(
    name: str, signature: inspect.Signature, hints: dict[str, Any], words: list[str]
) -> dict[str, str | bool]:
    """Each parameter's word, unconverted."""
    given: dict[str, str | bool] = {}
    positional = iter(signature.parameters)
    pending = list(words)
    while pending:
        word = pending.pop(0)
        if not word.startswith("--") or word == "--":
            key = next((key for key in positional if key not in given), None)
            if key is None:
                raise UsageError(f"{name}: {word!r} is one argument too many; usage: {usage_of(name, signature)}")
            given[key] = word
            continue
        option, has_value, value = word[2:].partition("=")
        key, negated = parameter_of(option, signature)
        if key is None:
            raise UsageError(f"{name} has no parameter {option!r}; usage: {usage_of(name, signature)}")
        is_switch = hints.get(key) is bool and not has_value
        if is_switch and not negated and pending and pending[0].lower() in TRUTHS:
            given[key] = pending.pop(0)
        elif negated or is_switch:
            given[key] = not negated
        elif has_value:
            given[key] = value
        elif pending:
            given[key] = pending.pop(0)
        else:
            raise UsageError(f"{name}: --{option} needs a value")
    return given


def parameter_of(option: str, signature: inspect.Signature) -> tuple[str | None, bool]:
    """(parameter, whether it is negated) that `--option` stands for."""
    key = option.replace("-", "_")
    if key in signature.parameters:
        return key, False
    if key.startswith("no_") and key[3:] in signature.parameters:
        return key[3:], True
    return None, False


def convert(name: str, key: str, value: str | bool, hint: Any) -> Any:
    """The word as a value of `hint`: as text first (which reads numbers too), then as JSON."""
    if isinstance(value, bool) or hint is Any or hint is str:
        return value
    from pydantic import PydanticUserError, TypeAdapter, ValidationError

    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint)
    except PydanticUserError:
        raise UsageError(f"{name}: parameter {key} of type {hint!r} cannot be given on the command line") from None
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
    try:
        # Strict: `true` is no integer, however Python counts it.
        return adapter.validate_json(value, strict=True)
    except ValidationError as error:
        if error.errors()[0]["type"] != "json_invalid":
            reason = error.errors()[0]["msg"]
        elif typing.get_origin(hint) in (list, dict, tuple, set):
            reason = f'write it as JSON, such as --{key.replace("_", "-")} \'["a", "b"]\''
    raise UsageError(f"{name}: {value!r} for {key}: {reason}") from None
