"""The body of a query: what must or may be in it, and of which type."""

from __future__ import annotations

from typing import Any

from deepserve_controller.errors import QueryError

Body = dict[str, Any]


def required(body: Body, key: str, kind: type[Any] | tuple[type[Any], ...]) -> Any:
    """Raises QueryError."""
    if key not in body:
        raise QueryError("invalid", f"{key} is missing")
    return optional(body, key, kind, None)


def optional(body: Body, key: str, kind: type[Any] | tuple[type[Any], ...], default: Any) -> Any:
    """Raises QueryError."""
    value = body.get(key, default)
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (int in kinds and isinstance(value, bool)):
        wanted = " or ".join(one.__name__ for one in kinds)
        raise QueryError("invalid", f"{key} must be of type {wanted}, not {type(value).__name__}")
    return value
