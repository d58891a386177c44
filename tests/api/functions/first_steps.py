"""api.md section 1, first block: functions and their verbs."""

import asyncio

import deepserve


@deepserve.function  # bare: joins the file's default app, named after the file
def square(x: int) -> int:
    return x * x


app = deepserve.App("papers")  # or explicit


@app.function(
    cpu=1,
    memory=512,
    timeout=30,
    min_pods=0,
    max_pods=8,
    buffer_pods=0,
    scaledown_window=60,
    retries=deepserve.Retries(max_retries=3, initial_delay=0.2, jitter=True, on=(ConnectionError,)),
)
def fetch(url: str, *, pages: int = 10) -> str:
    return f"{pages} pages of {url}"


async def twins() -> None:
    assert await square.remote.aio(3) == 9


if __name__ == "__main__":
    assert square(3) == 9  # a plain local call; starts nothing
    assert square.remote(3) == 9  # from a pod; the first remote call starts the embedded controller
    asyncio.run(twins())  # every blocking verb has an .aio twin
    call = square.spawn(3)
    assert call.get(timeout=20) == 9 and call.done() and call.status() == "ok" and call.timings is not None
    assert deepserve.Call.from_id(call.id).get() == 9
    assert list(square.map(range(1000))) == [n * n for n in range(1000)]
    assert sorted(square.map(range(9), order_outputs=False, return_exceptions=True, max_in_flight=3)) == [
        n * n for n in range(9)
    ]
    assert list(fetch.starmap([("u",), ("v",)])) == ["10 pages of u", "10 pages of v"]
    square.for_each(range(10))
    assert square.with_options(memory=256, timeout=5).remote(3) == 9  # its own pool of pods
    assert (square.app.name, fetch.app.name) == ("first_steps", "papers")
    print("done")
