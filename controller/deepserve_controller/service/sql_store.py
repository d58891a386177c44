"""Deployed apps on disk: what a restarted controller still knows."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy

from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.errors import StoreUnreadable
from deepserve_controller.service import store_tables
from deepserve_controller.service.bundles import Bundle, BundleKind
from deepserve_controller.service.private_files import private, touch_private
from deepserve_controller.service.sql_records import SqlRecords
from deepserve_controller.service.store import App, next_revision

SCHEMA_VERSION = 1


class SqlStore:
    """SQLite for the names, one file per bundle beside it. Opened by one controller at a time."""

    def __init__(self, folder: str) -> None:
        """Raises StoreUnreadable."""
        self._bundle_folder = os.path.join(folder, "bundles")
        try:
            os.makedirs(self._bundle_folder, mode=0o700, exist_ok=True)
        except OSError as error:
            raise StoreUnreadable(f"{self._bundle_folder} cannot be used: {error.strerror}") from None
        path = os.path.join(folder, "state.db")
        self._engine = store_tables.open_engine(path)
        try:
            touch_private(path)  # SQLite gives what it makes beside it the mode that it finds
            with self._engine.begin() as connection:
                found = store_tables.prepare(connection, SCHEMA_VERSION)
        except (OSError, sqlalchemy.exc.DatabaseError, sqlite3.DatabaseError) as error:
            text = error.strerror if isinstance(error, OSError) else getattr(error, "orig", error)
            raise StoreUnreadable(f"{path} cannot be read: {text}") from None
        if found != SCHEMA_VERSION:
            raise StoreUnreadable(
                f"{path} has format {found}, this version of DeepServe reads {SCHEMA_VERSION}: "
                f"start the version that wrote it, or move the folder away"
            )
        self.keys = SqlRecords(self._engine, store_tables.api_keys)
        self.contexts = SqlRecords(self._engine, store_tables.contexts)
        self.bounds = SqlRecords(self._engine, store_tables.bounds)

    def apps(self) -> list[App]:
        with self._engine.connect() as connection:
            return [self._app(connection, row) for row in store_tables.all_apps(connection)]

    def put_app(self, app: App, bundles: dict[str, Bundle]) -> App:
        # Files first: the committed rows never name a file that is not whole.
        kept: dict[str, tuple[str, str]] = {
            digest: (bundle.kind, self._write_bundle(bundle)) for digest, bundle in bundles.items()
        }
        with self._engine.begin() as connection:
            row = store_tables.one_app(connection, app.name)
            app = next_revision(app, self._app(connection, row) if row else None)
            store_tables.replace_app(
                connection,
                name=app.name,
                revision=app.revision,
                deployed_at=app.deployed_at,
                entrypoints=msgspec.msgpack.encode(app.entrypoints),
                functions=app.functions,
                specs={function_id: msgspec.msgpack.encode(spec) for function_id, spec in app.specs.items()},
                schemas={function: msgspec.msgpack.encode(schema) for function, schema in app.schemas.items()},
                contents_by_digest=kept,
            )
            unused = store_tables.drop_unused(connection)
        self._remove_files(unused)
        return app

    def remove_app(self, name: str) -> None:
        with self._engine.begin() as connection:
            store_tables.delete_app(connection, name)
            unused = store_tables.drop_unused(connection)
        self._remove_files(unused)

    def bundle(self, digest: str) -> Bundle | None:
        """None where it is unknown or the file is not what was written."""
        with self._engine.connect() as connection:
            found = store_tables.one_bundle(connection, digest)
        if found is None:
            return None
        kind, checksum = found
        try:
            with open(os.path.join(self._bundle_folder, checksum), "rb") as file:
                data = file.read()
        except OSError:
            return None
        return Bundle(_kind(kind), data) if hashlib.sha256(data).hexdigest() == checksum else None

    def close(self) -> None:
        self._engine.dispose()

    def _app(self, connection: sqlalchemy.Connection, row: Any) -> App:
        functions, specs = store_tables.contents(connection, row.name)
        schemas = store_tables.schemas_of(connection, row.name)
        try:
            return App(
                name=row.name,
                functions=functions,
                specs={key: msgspec.msgpack.decode(data, type=FunctionSpec) for key, data in specs.items()},
                entrypoints=msgspec.msgpack.decode(row.entrypoints),
                schemas={key: msgspec.msgpack.decode(data) for key, data in schemas.items()},
                revision=row.revision,
                deployed_at=row.deployed_at,
            )
        except msgspec.DecodeError as error:
            raise StoreUnreadable(f"the stored app {row.name!r} cannot be read: {error}") from None

    def _write_bundle(self, bundle: Bundle) -> str:
        """Named by its checksum; whole or not at all."""
        checksum = hashlib.sha256(bundle.data).hexdigest()
        path = os.path.join(self._bundle_folder, checksum)
        if os.path.exists(path) and os.path.getsize(path) == len(bundle.data):
            return checksum
        unfinished = f"{path}.{os.getpid()}"
        with open(unfinished, "wb", opener=private) as file:
            file.write(bundle.data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        return checksum

    def _remove_files(self, checksums: Iterable[str]) -> None:
        for checksum in checksums:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._bundle_folder, checksum))


def _kind(kind: str) -> BundleKind:
    return "pickle" if kind == "pickle" else "files"
