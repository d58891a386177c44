"""The packages without which no model runs, and which the base install has not."""

from __future__ import annotations

from importlib.util import find_spec

from .errors import MissingPackageError

PACKAGES = ("torch", "tokenizers", "jinja2", "numpy")


def require_packages(what: str) -> None:
    """`what` needs them. Imports none. Raises MissingPackageError, which says how they are installed."""
    if missing := [name for name in PACKAGES if not _is_there(name)]:
        raise MissingPackageError(
            f"{what} needs {', '.join(missing)}, which this environment has not: pip install 'deepserve[flowserve]'"
        )


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False
