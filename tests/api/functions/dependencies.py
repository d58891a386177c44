"""api.md section 1: pending calls as arguments; the controller waits for them, not the caller."""

import deepserve


@deepserve.function
def square(x: int) -> int:
    return x * x


if __name__ == "__main__":
    call = square.spawn(3)
    assert square.remote(call.arg) == 81  # `call` itself, typed as its result
    assert list(square.map([call.arg, 2])) == [81, 4]
    assert square.spawn(square.spawn(square.spawn(2).arg).arg).get() == 256
    print("done")
