"""SHA-256 without OpenSSL, which `hashlib` loads: it costs every process of a script's first call 2 ms and some MB."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol, cast


class Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class Sha256(Protocol):
    def __call__(self, data: bytes = b"", /) -> Digest: ...


def _find() -> Any:
    """Python's own implementation, under the names that it has had (3.12, 3.11)."""
    for module in ("_sha2", "_sha256", "hashlib"):
        try:
            return import_module(module).sha256
        except ImportError:
            continue
    raise ImportError("this Python has no SHA-256")


sha256 = cast(Sha256, _find())
