from __future__ import annotations

import gc
import pickle
from pathlib import Path

import numpy as np
import pytest

import deepserve
from tests.conformance import user_code
from tests.conformance.conftest import forget, wait_until, wait_until_empty
from tests.conformance.engines import Engine

BOUNDARIES = [0, 1, (128 << 10) - 200, 128 << 10, 256 << 10, (1 << 20) - 200, 1 << 20, (4 << 20) + 1, 20_000_000]
"""Where engines change how values travel."""


@pytest.mark.parametrize("size_bytes", BOUNDARIES)
def test_bytes_of_every_size_each_way(size_bytes: int) -> None:
    data = bytes(range(256)) * (size_bytes // 256) + bytes(size_bytes % 256)
    assert user_code.echo.remote(data) == data
    assert user_code.length.remote(data) == size_bytes
    assert user_code.gives.remote(size_bytes) == bytes(size_bytes)


@pytest.mark.parametrize("num_items", [10, 100_000, 2_000_000])
def test_arrays_are_copies_that_may_be_written_to(num_items: int) -> None:
    array = np.zeros(num_items)
    assert user_code.fills.remote(array) == num_items
    assert not array.any()
    back = user_code.echo.remote(array)
    back += 1
    assert back.sum() == num_items


def test_a_ref_is_the_value_as_an_argument_and_a_ref_inside_one() -> None:
    ref = deepserve.put(np.zeros(1_000_000))
    assert user_code.fills.remote(ref) == 1_000_000
    assert user_code.fills.remote(ref) == 1_000_000
    assert not ref.get().any()
    assert user_code.lengths.remote([ref, ref]) == [1_000_000, 1_000_000]
    assert user_code.echo.remote([ref]) == [ref]
    assert ref.size_bytes >= 8_000_000
    ref.delete()
    ref.delete()
    for use in (ref.get, lambda: user_code.fills.remote(ref), lambda: user_code.lengths.remote([ref])):
        with pytest.raises(deepserve.RefGone, match="deleted"):
            use()


@pytest.mark.parametrize("value", ["small", None, b"x" * 2_000_000])
def test_refs_of_all_sizes(value: object) -> None:
    ref = deepserve.put(value)
    assert ref.get() == value
    assert user_code.echo.remote(ref) == value
    assert list(user_code.echo.map([ref] * 3)) == [value] * 3
    ref.delete()


def test_a_ref_made_in_a_pod() -> None:
    ref = user_code.puts.remote(1_000_000)
    assert ref.get() == bytes(1_000_000)
    assert user_code.length.remote(ref) == 1_000_000
    ref.delete()


def test_a_ref_with_a_time_to_live() -> None:
    ref = deepserve.put("x", ttl=0.2)

    def is_gone() -> bool:
        try:
            return ref.get() is None
        except deepserve.SerializationError:
            return True

    wait_until(is_gone)


def is_stored(pickled: bytes) -> bool:
    """Asked through a Ref that holds nothing: one that was written down."""
    try:
        user_code.echo.remote(pickle.loads(pickled))
    except deepserve.RefGone:
        return False
    return True


def test_a_ref_lives_as_long_as_somebody_has_it() -> None:
    ref = deepserve.put(b"x" * 1000)
    written_down = pickle.dumps(ref)
    back = user_code.echo.remote([ref])
    del ref
    assert is_stored(written_down) and back[0].get() == b"x" * 1000
    back.clear()
    wait_until(lambda: not is_stored(written_down))


def test_use_after_delete_says_so_everywhere() -> None:
    ref = deepserve.put(b"x" * 1000)
    [back] = user_code.echo.remote([ref])
    back.delete()
    for use in (ref.get, back.get, lambda: user_code.echo.remote(ref), lambda: user_code.lengths.remote([ref])):
        with pytest.raises(deepserve.RefGone):
            use()


def test_a_call_as_an_argument() -> None:
    assert user_code.square.remote(user_code.square.spawn(3).arg) == 81
    large = user_code.gives.spawn(3_000_000)
    assert user_code.length.remote(large) == 3_000_000
    forget(large)
    with pytest.raises(user_code.Boom):
        user_code.echo.remote(user_code.raises.spawn("so it is"))


def test_a_large_result_that_nobody_takes() -> None:
    call = user_code.gives.spawn(5_000_000)
    wait_until(call.done)
    forget(call)


def test_a_large_result_that_several_take() -> None:
    call = user_code.gives.spawn(5_000_000)
    assert call.get(timeout=60) == deepserve.Call.from_id(call.id).get(timeout=60) == bytes(5_000_000)
    forget(call)


# --- who holds a ref ----------------------------------------------------------------------------------------


def test_a_ref_ends_with_its_last_holder(engine: Engine) -> None:
    ref = deepserve.put(bytes(300_000))
    also = pickle.loads(pickle.dumps(ref))
    assert also == ref and len({also, ref}) == 1
    del ref
    assert user_code.length.remote(also) == 300_000
    del also
    wait_until_empty(engine.leftovers)


def test_a_call_that_carries_a_ref_keeps_it(tmp_path: Path) -> None:
    call = user_code.waits_and_counts.spawn(str(tmp_path), [deepserve.put(bytes(300_000))])
    gc.collect()
    (tmp_path / "go").touch()
    assert call.get(timeout=60) == [300_000]


def test_refs_go_through_pods_and_back(engine: Engine) -> None:
    refs = user_code.hands_on.remote({"refs": [deepserve.put(bytes(n)) for n in (1, 400_000)]})["refs"]
    assert [len(ref.get()) for ref in refs] == [1, 400_000]
    outputs = list(user_code.hands_on.map([[ref] for ref in refs]))
    assert [len(ref.get()) for [ref] in outputs] == [1, 400_000]
    del refs, outputs
    wait_until_empty(engine.leftovers)


def test_refs_inside_a_stored_value_live_with_it() -> None:
    outer = deepserve.put({"inner": deepserve.put(bytes(500_000))})
    inner = outer.get()["inner"]
    del outer
    assert len(inner.get()) == 500_000


def test_a_pod_that_keeps_a_ref_holds_it() -> None:
    keeper = user_code.Keeper()
    assert keeper.keep.remote([deepserve.put(bytes(400_000))]) == 1
    gc.collect()
    assert keeper.read.remote() == [400_000]
    keeper.keep.remote([])
