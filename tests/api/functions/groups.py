"""api.md section 1: a map that is spawned and come back to."""

import asyncio

import deepserve


@deepserve.function
def square(x: int) -> int:
    return x * x


async def twins() -> None:
    group = await square.spawn_map.aio(range(10))
    assert [value async for value in group] == await group.get.aio() == [n * n for n in range(10)]


if __name__ == "__main__":
    group = square.spawn_map(range(100))  # CallGroup[int]: iterate, index, .cancel(), .progress
    assert list(group) == [n * n for n in range(100)]
    assert len(group) == 100 and group[7].get() == 49 and group.progress.done == 100
    assert deepserve.CallGroup.from_id(group.id).get() == list(group)
    group.cancel()
    asyncio.run(twins())
    print("done")
