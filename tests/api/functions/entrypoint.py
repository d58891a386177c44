"""api.md section 1: a local entry point, for `deepserve run entrypoint.py --n 5`."""

import deepserve

app = deepserve.App("entry")


@app.function
def square(x: int) -> int:
    return x * x


@app.local_entrypoint()
def main(n: int = 10) -> None:
    print(sum(square.map(range(n))))
