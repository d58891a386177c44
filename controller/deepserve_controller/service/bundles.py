"""Bundles of code, by digest: opaque bytes that pods fetch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, NamedTuple

BundleKind = Literal["files", "pickle"]


class Bundle(NamedTuple):
    kind: BundleKind
    data: bytes


class Bundles:
    """In memory within `max_bytes`, the least recently used dropped first; deployed ones are also in the store."""

    def __init__(self, max_bytes: int, load: Callable[[str], Bundle | None] = lambda digest: None) -> None:
        self._max_bytes = max_bytes
        self._load = load
        self._bundles: OrderedDict[str, Bundle] = OrderedDict()
        self.total_bytes = 0

    def put(self, digest: str, bundle: Bundle) -> None:
        """Content never changes under a digest, so the first one stays."""
        if digest in self._bundles:
            return self._bundles.move_to_end(digest)
        self._bundles[digest] = bundle
        self.total_bytes += len(bundle.data)
        while self.total_bytes > self._max_bytes and len(self._bundles) > 1:
            _, dropped = self._bundles.popitem(last=False)
            self.total_bytes -= len(dropped.data)

    def get(self, digest: str) -> Bundle | None:
        bundle = self._bundles.get(digest)
        if bundle is not None:
            self._bundles.move_to_end(digest)
            return bundle
        bundle = self._load(digest)
        if bundle is not None:
            self.put(digest, bundle)
        return bundle
