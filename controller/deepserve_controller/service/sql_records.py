"""SqlRecords: descriptions by name, in a table of their own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, Table, bindparam, delete, insert, select
from sqlalchemy.exc import DatabaseError

from deepserve_controller.errors import StoreUnwritable


class SqlRecords:
    """See Records. Each change is committed when it returns."""

    def __init__(self, engine: Engine, table: Table) -> None:
        """`table`: of a name and `described`."""
        self._engine = engine
        self._table = table
        [self._name] = table.primary_key.columns

    def all(self) -> list[tuple[str, bytes]]:
        with self._engine.connect() as connection:
            rows = connection.execute(select(self._name, self._table.c.described).order_by(self._name))
            return [(name, described) for name, described in rows]

    def put(self, name: str, described: bytes) -> None:
        with self._writing() as connection:
            self._delete(connection, name)
            connection.execute(insert(self._table).values({self._name: name, self._table.c.described: described}))

    def remove(self, *names: str) -> None:
        if names:
            with self._writing() as connection:
                self._delete(connection, *names)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except (DatabaseError, sqlite3.DatabaseError) as error:
            raise StoreUnwritable(f"the state folder takes no change: {getattr(error, 'orig', error)}") from None

    def _delete(self, connection: Connection, *names: str) -> None:
        one = delete(self._table).where(self._name == bindparam("named"))
        connection.execute(one, [{"named": name} for name in names])
