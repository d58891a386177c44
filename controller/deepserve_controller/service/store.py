"""Deployed apps: what a store must keep of them, and the store of a controller without a state folder."""

from __future__ import annotations

import time
from typing import Any, Protocol

import msgspec

from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.service.bundles import Bundle


class App(msgspec.Struct, frozen=True):
    """One deployed app: its functions by name, and what they need besides (a model's tokenizer), by id."""

    name: str
    functions: dict[str, str]
    specs: dict[str, FunctionSpec]
    entrypoints: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    """JSON schemas of parameters, by function or `Class.method`."""
    revision: int = 1
    deployed_at: float = 0.0

    def digests(self) -> set[str]:
        return {spec.code.digest for spec in self.specs.values() if spec.code.digest}


class ApiKey(msgspec.Struct, frozen=True):
    """A key of the OpenAI API; the secret itself is not kept.

    scopes: endpoints that it may use, models: those that it sees; none = all. Limits of 0 are none.
    """

    key_id: str
    name: str
    digest: str
    """SHA-256 of the secret, in hexadecimal."""
    scopes: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    created_at: float = 0.0
    link_id: str = ""
    """Made for a process: valid while this link of it is open, and never stored."""


class Records(Protocol):
    """Of one kind, by name, as bytes that only their owner reads; it holds them itself while it runs.

    `put` and `remove` raise StoreUnwritable. All that is removed by one call goes in one step.
    """

    def all(self) -> list[tuple[str, bytes]]: ...

    def put(self, name: str, described: bytes) -> None: ...

    def remove(self, *names: str) -> None: ...


class NoRecords:
    """They end with their owner."""

    def all(self) -> list[tuple[str, bytes]]:
        return []

    def put(self, name: str, described: bytes) -> None: ...

    def remove(self, *names: str) -> None: ...


NO_RECORDS = NoRecords()


class Store(Protocol):
    @property
    def keys(self) -> Records: ...

    @property
    def contexts(self) -> Records: ...

    @property
    def bounds(self) -> Records: ...

    def apps(self) -> list[App]: ...

    def put_app(self, app: App, bundles: dict[str, Bundle]) -> App:
        """Replaces the app of this name in one step; returns it with its revision and time."""

    def remove_app(self, name: str) -> None: ...

    def bundle(self, digest: str) -> Bundle | None: ...

    def close(self) -> None: ...


class MemoryStore:
    """Ends with its controller."""

    def __init__(self) -> None:
        self._apps: dict[str, App] = {}
        self._bundles: dict[str, Bundle] = {}
        self.keys: Records = NO_RECORDS
        self.contexts: Records = NO_RECORDS
        self.bounds: Records = NO_RECORDS

    def apps(self) -> list[App]:
        return sorted(self._apps.values(), key=lambda app: app.name)

    def put_app(self, app: App, bundles: dict[str, Bundle]) -> App:
        app = next_revision(app, self._apps.get(app.name))
        self._apps[app.name] = app
        self._bundles.update(bundles)
        self._drop_unused()
        return app

    def remove_app(self, name: str) -> None:
        self._apps.pop(name, None)
        self._drop_unused()

    def bundle(self, digest: str) -> Bundle | None:
        return self._bundles.get(digest)

    def close(self) -> None:
        pass

    def _drop_unused(self) -> None:
        used = {digest for app in self._apps.values() for digest in app.digests()}
        self._bundles = {digest: bundle for digest, bundle in self._bundles.items() if digest in used}


def next_revision(app: App, before: App | None) -> App:
    revision = before.revision + 1 if before else 1
    return msgspec.structs.replace(app, revision=revision, deployed_at=time.time())
