"""What a person may type wrong, on every verb: a typed error at once, and no harm to other calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import deepserve
from tests.conformance import user_code
from tests.conformance.conftest import wait_for_file
from tests.conformance.user_code import square

WRONG: dict[str, Callable[[], Any]] = {
    "an id that is none": lambda: deepserve.Call.from_id(5),  # type: ignore[arg-type]
    "a time to wait that is none": lambda: square.spawn(2).get("3"),  # type: ignore[arg-type]
    "a time to live that is none": lambda: deepserve.put(1, ttl=-1),
    "a window that is none": lambda: list(square.map([1], max_in_flight=0)),
    "half a window": lambda: list(square.map([1], max_in_flight=0.5)),  # type: ignore[arg-type]
    "inputs that are none": lambda: list(square.map(5)),  # type: ignore[arg-type]
    "arguments that are none": lambda: list(square.starmap([5])),  # type: ignore[list-item]
    "an option that is none": lambda: square.with_options(pods=3),
    "more pods than most": lambda: square.with_options(min_pods=3, max_pods=2),
    "retries that are none": lambda: square.with_options(retries="many"),
    "a hook on nothing": lambda: deepserve.function(5),  # type: ignore[call-overload]
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_use_is_refused_here(what: str, tmp_path: Path) -> None:
    running = user_code.waits_for_file.spawn(str(tmp_path), "go", "unharmed")
    with pytest.raises((TypeError, ValueError)):
        WRONG[what]()
    (tmp_path / "go").touch()
    assert running.get(timeout=60) == "unharmed"


@pytest.mark.parametrize("offset", [-1, "2", 1.5])
def test_a_position_that_is_none(offset: Any) -> None:
    stream = user_code.tokens.spawn(3)
    with pytest.raises(ValueError, match="from_offset"):
        list(stream.stream(from_offset=offset))
    assert list(stream.stream()) == ["t0", "t1", "t2"]


def test_a_position_beyond_the_end() -> None:
    stream = user_code.tokens.spawn(3)
    assert list(stream.stream(from_offset=3)) == []
    assert list(stream.stream(from_offset=1)) == ["t1", "t2"]


def test_a_task_that_is_cancelled_on_an_event_loop(tmp_path: Path) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(user_code.sleeps.remote.aio(str(tmp_path), "a"))
        while not (tmp_path / "a").exists():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    wait_for_file(tmp_path / "a-stopped")  # nobody waits for it: it is stopped


def test_strange_names_and_texts() -> None:
    assert user_code.join.remote("\0", "\n" * 1000, **{"ü" * 300: "x"})  # type: ignore[arg-type]
    text = "x" * 2_000_000
    with pytest.raises(user_code.Boom) as caught:
        user_code.raises.remote(text)
    assert str(caught.value).startswith("x" * 1000)
