"""api.md section 1: generators are streamed, left and found again."""

from collections.abc import Iterator

import deepserve


@deepserve.function
def tokens(n: int) -> Iterator[str]:  # generator: streamed, with back-pressure
    for i in range(n):
        yield f"t{i}"


if __name__ == "__main__":
    assert list(tokens.remote(5)) == ["t0", "t1", "t2", "t3", "t4"]
    s = tokens.spawn(1000)  # leave, come back, go on
    for tok in s.stream():
        if tok == "t3":
            break
    rest = list(deepserve.Call.from_id(s.id).stream(from_offset=10, with_offset=True))
    assert rest == [(i, f"t{i}") for i in range(10, 1000)]
    print("done")
