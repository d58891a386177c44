"""Both stores keep the same promises; the one on disk keeps them after it was closed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from deepserve.protocol.specs import CodeRef, FunctionSpec, function_id
from deepserve_controller.errors import StoreUnreadable
from deepserve_controller.service.bundles import Bundle
from deepserve_controller.service.openai.api_keys import ApiKeys
from deepserve_controller.service.recipients import Recipients
from deepserve_controller.service.sql_store import SqlStore
from deepserve_controller.service.store import App, MemoryStore, Store


def spec(name: str, digest: str = "") -> FunctionSpec:
    return FunctionSpec("shop", name, "function", CodeRef("bundle", "m", name, digest), params=b"\x00\xff")


def app(name: str, *specs: FunctionSpec) -> App:
    by_id = {function_id(found): found for found in specs}
    return App(name, {found.name: key for key, found in by_id.items()}, dict(by_id), {"main": ["a", 1, None]})


@pytest.fixture(params=["memory", "sql"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    memory = MemoryStore()
    return lambda: memory if request.param == "memory" else SqlStore(str(tmp_path))


def test_an_app_comes_back_whole(make_store: Callable[[], Store]) -> None:
    store = make_store()
    stored = store.put_app(app("shop", spec("buy", "d1")), {"d1": Bundle("files", b"code")})
    store.close()
    store = make_store()
    assert store.apps() == [stored] and stored.revision == 1 and stored.deployed_at > 0
    assert store.bundle("d1") == Bundle("files", b"code")
    assert store.bundle("d2") is None


def test_a_replaced_app_keeps_nothing_of_the_old(make_store: Callable[[], Store]) -> None:
    store = make_store()
    store.put_app(app("shop", spec("buy", "d1"), spec("sell", "d1")), {"d1": Bundle("files", b"old")})
    store.put_app(app("bank", spec("pay", "d1")), {"d1": Bundle("files", b"old")})
    stored = store.put_app(app("shop", spec("buy", "d2")), {"d2": Bundle("pickle", b"new")})
    assert [found.name for found in store.apps()] == ["bank", "shop"]
    assert (stored.revision, list(stored.functions)) == (2, ["buy"])
    assert store.bundle("d1") is not None  # the bank's
    store.remove_app("bank")
    assert store.bundle("d1") is None
    assert store.bundle("d2") == Bundle("pickle", b"new")
    store.remove_app("bank")


def test_files_of_unused_bundles_go(tmp_path: Path) -> None:
    store = SqlStore(str(tmp_path))
    store.put_app(app("shop", spec("buy", "d1")), {"d1": Bundle("files", b"old")})
    store.put_app(app("shop", spec("buy", "d2")), {"d2": Bundle("files", b"new")})
    assert [path.read_bytes() for path in (tmp_path / "bundles").iterdir()] == [b"new"]


def test_a_damaged_bundle_is_not_handed_out(tmp_path: Path) -> None:
    store = SqlStore(str(tmp_path))
    store.put_app(app("shop", spec("buy", "d1")), {"d1": Bundle("files", b"code")})
    [file] = (tmp_path / "bundles").iterdir()
    file.write_bytes(b"c0de")
    assert store.bundle("d1") is None
    file.unlink()
    assert store.bundle("d1") is None


def test_another_format_is_named(tmp_path: Path) -> None:
    SqlStore(str(tmp_path)).close()
    with sqlite3.connect(tmp_path / "state.db") as connection:
        connection.execute("update schema_info set version = 7")
    with pytest.raises(StoreUnreadable, match="format 7"):
        SqlStore(str(tmp_path))


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreUnreadable, match="not a database"):
        SqlStore(str(tmp_path))
    (tmp_path / "bundles").rmdir()
    (tmp_path / "bundles").touch()
    with pytest.raises(StoreUnreadable, match="bundles cannot be used: File exists"):
        SqlStore(str(tmp_path))


def test_writes_are_logged_ahead(tmp_path: Path) -> None:
    SqlStore(str(tmp_path)).close()
    with sqlite3.connect(tmp_path / "state.db") as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)


def test_records_of_each_kind_by_name(tmp_path: Path) -> None:
    store = SqlStore(str(tmp_path))
    for records in (store.keys, store.contexts, store.bounds):
        records.put("b", b"second")
        records.put("a", b"\x00\xff")
        records.put("b", b"")
        records.put("c", b"gone")
        records.remove("c")
        records.remove("never")
    store.keys.put("d", b"a key")
    store.close()
    store = SqlStore(str(tmp_path))
    assert store.contexts.all() == store.bounds.all() == [("a", b"\x00\xff"), ("b", b"")]
    assert store.keys.all() == [*store.contexts.all(), ("d", b"a key")]
    with pytest.raises(StoreUnreadable, match="'a'"):
        ApiKeys(store.keys, Recipients())
    store.close()
