"""Stored values: counted, with a time to live, the same for scripts, pods and what lies between them."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import deepserve
from deepserve._current_client import current_client
from deepserve._ref_holds import SOON_S
from tests.integration.functions.conftest import ScriptRunner, wait_until
from tests.integration.functions.large_values import (
    RefKeeper,
    array_of,
    make_ref,
    mean,
    numbered,
    pass_on,
    pid_and,
    raise_ref,
    read_refs,
    stream_refs,
    wait_and_read,
)


def stored() -> list[str]:
    """Names of the values that are stored now; everything that was let go has been told."""
    client = current_client()
    client.query("status")
    return [name for name in os.listdir(client.welcome.segments) if name.startswith("r-")]


@pytest.fixture(autouse=True)
def nothing_stored() -> Iterator[None]:
    yield
    gc.collect()  # an exception and its frames may hold each other, and they a ref
    wait_until(lambda: stored() == [])


def test_a_ref_ends_with_its_last_holder_here() -> None:
    ref = deepserve.put(array_of(1))
    also = pickle.loads(pickle.dumps(ref))
    assert also == ref and len({also, ref}) == 1
    assert mean.remote(ref.arg) == 1
    del ref
    assert len(stored()) == 1 and mean.remote(also) == 1
    status = current_client().query("status")
    assert (status["num_stored"], status["stored_bytes"]) == (1, also.size_bytes)
    del also
    assert stored() == []


def test_many_calls_read_one_copy() -> None:
    ref = deepserve.put(array_of(2))
    [name] = stored()
    file = Path(current_client().welcome.segments, name)
    inode = file.stat().st_ino
    assert list(mean.map([ref] * 50)) == [2.0] * 50
    assert file.stat().st_ino == inode and stored() == [name]
    got = ref.get()
    got[0] = 7
    del ref
    for number in range(30):  # its memory is in use again, and not under the one who read it
        assert numbered.remote(number).mean() == number
        assert deepserve.put(array_of(number)).get().mean() == number
    assert got[0] == 7 and (got[1:] == 2).all()


def test_a_call_that_carries_a_ref_keeps_it(tmp_path: Path) -> None:
    for nest in (lambda ref: ref, lambda ref: [ref]):
        go = tmp_path / f"go-{nest(0)}"
        call = wait_and_read.spawn(nest(deepserve.put(array_of(3))), str(go))
        gc.collect()
        assert len(stored()) == 1
        go.touch()
        assert call.get(timeout=60) == 3
        wait_until(lambda: stored() == [])


def test_a_ref_made_in_a_pod_lives_with_who_has_it() -> None:
    ref = make_ref.remote(4)
    assert ref.get().mean() == 4
    assert mean.remote(ref.arg) == 4  # type: ignore[arg-type]
    assert read_refs.remote([ref, ref]) == [4, 4]
    back = pass_on.remote({"ref": ref})["ref"]
    assert back == ref
    del ref
    assert back.get().mean() == 4
    del back
    wait_until(lambda: stored() == [])


def test_a_result_that_nobody_takes_lets_its_refs_go() -> None:
    call = make_ref.spawn(5)
    wait_until(call.done)
    call_id = call.id
    del call
    assert len(stored()) == 1, "the kept result can still be asked for"
    assert deepserve.Call.from_id(call_id).get(timeout=60).get().mean() == 5
    wait_until(lambda: stored() == [])
    for ref in stream_refs.remote(100):
        assert ref.get().mean() == 0
        break
    del ref
    wait_until(lambda: stored() == [])
    refs = list(stream_refs.remote(5))
    assert [ref.get().mean() for ref in refs] == [0, 1, 2, 3, 4] and len(stored()) == 5
    refs.clear()
    wait_until(lambda: stored() == [])


def test_maps_carry_refs_both_ways() -> None:
    outputs = list(pass_on.map([deepserve.put(array_of(number))] for number in range(30)))
    assert [ref.get().mean() for [ref] in outputs] == list(range(30)) and len(stored()) == 30
    outputs.clear()
    gc.collect()
    wait_until(lambda: stored() == [])
    made = list(make_ref.map(range(30)))
    assert [ref.get().mean() for ref in made] == list(range(30)) and len(stored()) == 30
    made.clear()
    wait_until(lambda: stored() == [])


def test_an_exception_brings_its_refs_along() -> None:
    with pytest.raises(LookupError) as caught:
        raise_ref.remote(9)
    gc.collect()
    assert caught.value.args[0].get().mean() == 9 and len(stored()) == 1
    [error] = raise_ref.map([4], return_exceptions=True)
    assert isinstance(error, LookupError) and error.args[0].get().mean() == 4


def test_a_pod_that_keeps_a_ref_holds_it_until_it_lets_go_or_dies() -> None:
    keeper = RefKeeper()
    keeper.keep.remote([deepserve.put(array_of(6))])
    assert len(stored()) == 1 and keeper.mean.remote() == 6
    keeper.let_go.remote()
    wait_until(lambda: stored() == [])
    keeper.keep.remote([deepserve.put(array_of(7))])
    pods = current_client().query("status")["pods"]
    [pid] = [pod["pid"] for pod in pods if "RefKeeper" in pod["label"]]
    assert len(stored()) == 1
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: stored() == [])


def test_refs_inside_a_stored_value_live_with_it() -> None:
    outer = deepserve.put({"inner": deepserve.put(array_of(8))})
    assert len(stored()) == 2
    inner = outer.get()["inner"]
    assert inner.get().mean() == 8
    assert pass_on.remote(outer.arg)["inner"].get().mean() == 8
    del outer
    wait_until(lambda: len(stored()) == 1)
    assert inner.get().mean() == 8
    del inner
    wait_until(lambda: stored() == [])


def test_a_refs_time_to_live_is_kept_by_the_controller() -> None:
    other, ref, last = (deepserve.put(array_of(9), ttl=ttl) for ttl in (60, 2.0, 2.2))
    assert ref.get().mean() == 9
    folder = current_client().welcome.segments
    until_s = time.monotonic() + 30
    while len([name for name in os.listdir(folder) if name.startswith("r-")]) > 1 and time.monotonic() < until_s:
        pass  # this process is busy and says nothing
    with pytest.raises(deepserve.RefGone, match="time to live"):
        ref.get()
    with pytest.raises(deepserve.RefGone, match="time to live"):
        mean.remote(ref.arg)
    assert other.get().mean() == 9
    with pytest.raises(deepserve.RefGone):
        last.get()


def test_what_was_deleted_is_gone_everywhere() -> None:
    ref = deepserve.put(array_of(1))
    copy = pass_on.remote([ref])[0]
    got = ref.get()
    ref.delete()
    ref.delete()
    assert got.mean() == 1
    for use in (ref.get, copy.get, lambda: mean.remote(ref.arg), lambda: read_refs.remote([ref])):
        with pytest.raises(deepserve.RefGone, match="deleted"):
            use()
    assert isinstance(deepserve.RefGone(), deepserve.SerializationError)


def test_a_forked_child_lets_go_of_nothing_of_its_parents() -> None:
    refs = [deepserve.put(array_of(3))]
    pid = os.fork()
    if pid == 0:
        refs.clear()
        time.sleep(5 * SOON_S)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert len(stored()) == 1 and mean.remote(refs[0].arg) == 3


def test_memory_comes_back_without_another_message() -> None:
    ref = deepserve.put(np.ones(4_000_000))
    folder = current_client().welcome.segments
    assert any(name.startswith("r-") for name in os.listdir(folder))
    del ref
    wait_until(lambda: not any(name.startswith("r-") for name in os.listdir(folder)))


def test_refs_as_results_of_calls_that_are_arguments() -> None:
    call = make_ref.spawn(2)
    nested = read_refs.remote([pass_on.spawn(call.arg).get(timeout=60)])
    assert nested == [2]
    assert call.get().get().mean() == 2
    del call
    wait_until(lambda: stored() == [])


KILLED = """
import os, signal
import deepserve
from deepserve._current_client import current_client

if __name__ == "__main__":
    ref = deepserve.put(bytes(1_000_000))
    print(current_client().welcome.segments, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_left_of_a_killed_script(script: ScriptRunner) -> None:
    folder = Path(script.run(KILLED).stdout.strip())
    assert folder.name.startswith("deepserve-")
    wait_until(lambda: not folder.exists())


def test_a_pod_that_dies_storing_leaves_nothing() -> None:
    pid, _ = pid_and.remote(array_of(1))
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: stored() == [])
