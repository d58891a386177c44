"""What every model needs and the base install of DeepServe has not."""

from __future__ import annotations

from importlib.util import find_spec

ENGINE_PACKAGES = ("torch", "tokenizers", "jinja2", "numpy")
"""FlowServe's, which is not at hand here; a test compares them."""


def missing_engine_packages() -> tuple[str, ...]:
    """Those that this interpreter would not find; none of them is imported."""
    return tuple(name for name in ENGINE_PACKAGES if not _is_there(name))


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False
