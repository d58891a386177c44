"""What becomes of contexts that there are: listed, given more time, forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deepserve._current_client import current_client
from deepserve.errors import InvalidOption


@dataclass(frozen=True)
class ContextInfo:
    """One context of a model. id: for `context=`. ttl: seconds after its last use; expires_in: those that are left.
    created_at: Unix time."""

    id: str
    num_tokens: int
    ttl: float
    expires_in: float
    created_at: float


def checked_ttl(verb: str, ttl_s: Any) -> float:
    """Raises InvalidOption."""
    if isinstance(ttl_s, bool) or not isinstance(ttl_s, int | float) or not 0 < ttl_s < float("inf"):
        raise InvalidOption(f"{verb}: ttl={ttl_s!r} must be a number of seconds above 0")
    return float(ttl_s)


def list_contexts(label: str) -> list[ContextInfo]:
    """Of one model, the least recently used first."""
    return [_info(found) for found in current_client().query("contexts", {"label": label})["contexts"]]


def extend_context(context_id: str, ttl: float) -> ContextInfo:
    """Raises InvalidOption, UnknownContextError."""
    asked = {"context_id": str(context_id), "ttl_s": checked_ttl("context.extend", ttl)}
    return _info(current_client().query("extend_context", asked))


def delete_context(context_id: str) -> None:
    """Raises UnknownContextError."""
    current_client().query("delete_context", {"context_id": str(context_id)})


def _info(found: dict[str, Any]) -> ContextInfo:
    return ContextInfo(
        found["context_id"], found["num_tokens"], found["ttl_s"], found["expires_in_s"], found["created_at"]
    )
