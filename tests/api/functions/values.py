"""api.md section 1: refs, calls as arguments, and what an exception looks like."""

import numpy as np

import deepserve


class Boom(Exception):
    pass


@deepserve.function
def total(array: np.ndarray) -> float:
    return float(array.sum())


@deepserve.function
def square(x: int) -> int:
    return x * x


@deepserve.function
def fail() -> None:
    raise Boom("in the pod")


if __name__ == "__main__":
    array = np.arange(100_000)
    ref = deepserve.put(array)  # stored once, passed by reference
    assert total.remote(ref.arg) == array.sum()
    ref.delete()
    try:
        total.remote(ref.arg)
    except deepserve.RefGone:
        pass
    else:
        raise AssertionError("it was deleted")
    assert total.remote(deepserve.put(array, ttl=60).arg) == array.sum()  # counted: it ends with its last holder
    assert square.remote(square.spawn(3).arg) == 81
    try:
        fail.remote()
    except Boom as error:  # the script's own Boom
        assert "raised in call" in error.__notes__[0]
        print("done")
