"""The tables of the store and their statements: apps and bundles; those of SqlRecords."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    delete,
    event,
    insert,
    inspect,
    select,
)
from sqlalchemy.pool import StaticPool

metadata = MetaData()
schema_info = Table("schema_info", metadata, Column("version", Integer, nullable=False))
apps = Table(
    "apps",
    metadata,
    Column("name", String, primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("deployed_at", Float, nullable=False),
    Column("entrypoints", LargeBinary, nullable=False),
)
app_functions = Table(
    "app_functions",
    metadata,
    Column("app", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("function_id", String, nullable=False),
)
app_specs = Table(
    "app_specs",
    metadata,
    Column("app", String, primary_key=True),
    Column("function_id", String, primary_key=True),
    Column("spec", LargeBinary, nullable=False),
)
app_schemas = Table(
    "app_schemas",
    metadata,
    Column("app", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("schema", LargeBinary, nullable=False),
)
app_bundles = Table(
    "app_bundles",
    metadata,
    Column("app", String, primary_key=True),
    Column("digest", String, primary_key=True),
)
bundles = Table(
    "bundles",
    metadata,
    Column("digest", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("checksum", String, nullable=False),
)


def _records(name: str, key: str) -> Table:
    """For SqlRecords."""
    return Table(
        name, metadata, Column(key, String, primary_key=True), Column("described", LargeBinary, nullable=False)
    )


api_keys = _records("api_keys", "key_id")
contexts = _records("contexts", "context_id")
bounds = _records("bounds", "function_id")


def open_engine(path: str) -> Engine:
    engine = create_engine(f"sqlite:///{path}", poolclass=StaticPool)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    return engine


def prepare(connection: Connection, version: int) -> int:
    """Makes the tables of a new store; returns the version that it has."""
    if not inspect(connection).has_table("schema_info"):
        schema_info.create(connection)
        connection.execute(insert(schema_info).values(version=version))
    found = int(connection.execute(select(schema_info.c.version)).scalar_one())
    if found == version:
        metadata.create_all(connection)  # those that are new since the store was made, too
    return found


def all_apps(connection: Connection) -> list[Any]:
    return list(connection.execute(select(apps).order_by(apps.c.name)))


def one_app(connection: Connection, name: str) -> Any:
    return connection.execute(select(apps).where(apps.c.name == name)).one_or_none()


def contents(connection: Connection, app: str) -> tuple[dict[str, str], dict[str, bytes]]:
    """Function ids by name, and specs by function id."""
    named = connection.execute(select(app_functions).where(app_functions.c.app == app))
    specs = connection.execute(select(app_specs).where(app_specs.c.app == app))
    return {row.name: row.function_id for row in named}, {row.function_id: row.spec for row in specs}


def schemas_of(connection: Connection, name: str) -> dict[str, bytes]:
    rows = connection.execute(select(app_schemas).where(app_schemas.c.app == name)).all()
    return {row.name: row.schema for row in rows}


def one_bundle(connection: Connection, digest: str) -> tuple[str, str] | None:
    """Kind and checksum."""
    row = connection.execute(select(bundles).where(bundles.c.digest == digest)).one_or_none()
    return (row.kind, row.checksum) if row else None


def replace_app(
    connection: Connection,
    name: str,
    revision: int,
    deployed_at: float,
    entrypoints: bytes,
    functions: dict[str, str],
    specs: dict[str, bytes],
    schemas: dict[str, bytes],
    contents_by_digest: dict[str, tuple[str, str]],
) -> None:
    """`contents_by_digest`: kind and checksum of every bundle."""
    delete_app(connection, name)
    connection.execute(
        insert(apps).values(name=name, revision=revision, deployed_at=deployed_at, entrypoints=entrypoints)
    )
    for function, function_id in functions.items():
        connection.execute(insert(app_functions).values(app=name, name=function, function_id=function_id))
    for function_id, spec in specs.items():
        connection.execute(insert(app_specs).values(app=name, function_id=function_id, spec=spec))
    for function, schema in schemas.items():
        connection.execute(insert(app_schemas).values(app=name, name=function, schema=schema))
    for digest, (kind, checksum) in contents_by_digest.items():
        connection.execute(insert(app_bundles).values(app=name, digest=digest))
        if one_bundle(connection, digest) is None:
            connection.execute(insert(bundles).values(digest=digest, kind=kind, checksum=checksum))


def delete_app(connection: Connection, name: str) -> None:
    for table in (app_functions, app_specs, app_schemas, app_bundles):
        connection.execute(delete(table).where(table.c.app == name))
    connection.execute(delete(apps).where(apps.c.name == name))


def drop_unused(connection: Connection) -> list[str]:
    """Forgets bundles that no app uses; returns the checksums whose files may go."""
    used = select(app_bundles.c.digest)
    unused = connection.execute(select(bundles).where(bundles.c.digest.not_in(used))).all()
    connection.execute(delete(bundles).where(bundles.c.digest.not_in(used)))
    left = set(connection.execute(select(bundles.c.checksum)).scalars())
    return sorted({row.checksum for row in unused} - left)
