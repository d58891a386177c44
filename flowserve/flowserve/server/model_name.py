"""The name that a request gives its model."""

from __future__ import annotations

from collections.abc import Sequence

from .api_error import ApiError


def check_name(name: str | None, names: Sequence[str]) -> str:
    """The name to answer with. Raises ApiError 404 for another model; none at all means this one."""
    if not name:
        return names[0]
    if name not in names:
        text = f"the model {name!r} does not exist; this server has {', '.join(names)}"
        raise ApiError(404, text, param="model", code="model_not_found")
    return name
