"""User code of every verb that mypy --strict and pyright must see through; run by test_typing.py, never imported."""
# pyright: strict

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, assert_type

import deepserve
from deepserve import Call, CallGroup, Function, Ref
from deepserve.testing import LocalEngine, ScriptedModel, tool_call

app = deepserve.App("papers")


@deepserve.function
def square(x: int) -> int:
    return x * x


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
    return url * pages


@app.function
@deepserve.concurrent(max_inputs=4, target_inputs=3)
async def later(x: int) -> str:
    return str(x)


@deepserve.function
def tokens(n: int) -> Iterator[str]:
    yield str(n)


@app.function(
    idle_timeout=5,
    replay="resume",
    queue_timeout=60,
    startup_timeout=60,
    retries=deepserve.Retries(2, on=(OSError,), never_on=(PermissionError,)),
)
def lines(path: str) -> Iterator[str]:
    with open(path) as file:
        yield from file.readlines()[deepserve.resume_offset() :]


@app.function()
async def async_tokens(n: int) -> AsyncIterator[bytes]:
    yield bytes(n)


@deepserve.function
def total(numbers: list[int]) -> int:
    return sum(numbers)


@deepserve.function
def many(a: int, b: str, c: bytes, d: float = 1.0) -> complex:
    return complex(a + len(b) + len(c), d)


@app.function
@deepserve.batched(max_batch_size=64, wait_ms=5)
def embed(texts: list[str]) -> list[list[float]]:
    return [[float(len(text))] for text in texts]


@app.function
@deepserve.batched(max_batch_size=64, size_fn=len)
async def embed_later(texts: list[str], sizes: list[int]) -> list[bytes]:
    return [text.encode() * size for text, size in zip(texts, sizes, strict=True)]


@deepserve.cls(scaledown_window=120)
@deepserve.concurrent(max_inputs=32)
class Ranker:
    model: str = deepserve.parameter(default="small")
    depth: int = deepserve.parameter()

    @deepserve.enter(snap=True)
    def load(self) -> None:
        self.size = len(self.model)

    @deepserve.method()
    def score(self, q: str, doc: str) -> float:
        return float(len(q) + len(doc) + self.size)

    @deepserve.method()
    async def score_later(self, q: str) -> int:
        return len(q)

    @deepserve.method()
    def words(self, q: str) -> Iterator[str]:
        yield q

    @deepserve.method()
    async def words_later(self, q: str) -> AsyncIterator[int]:
        yield len(q)

    @deepserve.method()
    @deepserve.batched(max_batch_size=8)
    def scores(self, qs: list[str]) -> list[float]:
        return [float(len(q)) for q in qs]

    @deepserve.exit()
    def close(self) -> None: ...


@app.local_entrypoint()
def main(n: int = 10) -> None:
    assert_type(square(3), int)
    assert_type(square.local(3), int)
    assert_type(square.remote(n), int)
    assert_type(fetch.remote("u", pages=3), str)
    assert_type(later.remote(3), str)
    assert_type(square.with_options(memory=2048, timeout=5).remote(3), int)
    assert_type(tokens.with_options(cpu=2).remote(3), Iterator[str])
    assert_type(square.get_current_stats().backlog, int)
    assert_type(square.autoscaler.update(min_pods=1, scaledown_window=5.0).max_pods, int)
    assert_type(square.autoscaler.history()[0].reason, str)
    print(square.app.name, square.spec.label)


def spawned(n: int) -> None:
    call = square.spawn(n)
    assert_type(call, Call[int])
    assert_type(call.get(timeout=1), int)
    assert_type(call.id, str)
    assert_type(call.done(), bool)
    assert_type(call.status(), str)
    call.cancel()
    call.cancel(force=True)
    print(call.timings.run_ms if call.timings is not None else None)
    assert_type(later.spawn(3).get(), str)
    assert_type(Call.from_id(call.id), Call[Any])


def streamed(n: int) -> None:
    assert_type(tokens(3), Iterator[str])
    assert_type(tokens.remote(3), Iterator[str])
    assert_type(lines.remote("path"), Iterator[str])
    assert_type(async_tokens(3), AsyncIterator[bytes])
    assert_type(async_tokens.remote(3), Iterator[bytes])
    assert_type(tokens.spawn(3).stream(), Iterator[str])
    assert_type(tokens.spawn(3).stream(from_offset=2), Iterator[str])
    assert_type(async_tokens.spawn(3).stream(with_offset=True), Iterator[tuple[int, bytes]])
    for item in Call.from_id("rq-1").stream(from_offset=10):
        print(item)


def mapped(n: int) -> None:
    assert_type(square.map(range(n)), Iterator[int])
    assert_type(
        square.map([n], order_outputs=False, return_exceptions=True, max_in_flight=3), Iterator[int | Exception]
    )
    assert_type(square.map([n], return_exceptions=False), Iterator[int])
    assert_type(square.map([n], return_exceptions=n > 3), Iterator[int | Exception])
    assert_type(many.map([1], ["b"], [b"c"], [1.0], return_exceptions=True), Iterator[complex | Exception])
    assert_type(fetch.map(["u"], kwargs={"pages": 3}, return_exceptions=True), Iterator[str | Exception])
    assert_type(many.starmap([(1, "b", b"c", 1.0)], return_exceptions=True), Iterator[complex | Exception])
    assert_type(Ranker(depth=1).score.map(["q"], ["d"], return_exceptions=True), Iterator[float | Exception])
    assert_type(fetch.map(["u"]), Iterator[str])
    assert_type(fetch.map(["u"], kwargs={"pages": 3}), Iterator[str])
    assert_type(later.map(range(n)), Iterator[str])
    assert_type(many.map([1], ["b"], [b"c"]), Iterator[complex])
    assert_type(many.map([1], ["b"], [b"c"], [1.0]), Iterator[complex])
    assert_type(embed.map(["a"]), Iterator[list[float]])
    assert_type(embed_later.map(["a"], [1]), Iterator[bytes])
    assert_type(list(fetch.starmap([("u",), ("v",)])), list[str])
    assert_type(many.starmap([(1, "b", b"c")]), Iterator[complex])
    assert_type(many.starmap([(1, "b", b"c", 1.0)]), Iterator[complex])
    assert_type(many.starmap([(1, "b")], kwargs={"c": b""}), Iterator[complex])
    square.for_each(range(10), ignore_exceptions=True)
    many.for_each([1], ["b"], [b"c"])


def grouped() -> None:
    group = square.spawn_map(range(100))
    assert_type(group, CallGroup[int])
    for result in group:
        assert_type(result, int)
    assert_type(group[3].get(timeout=1), int)
    assert_type(group.get(timeout=10), list[int])
    assert_type(group.results(order_outputs=False), Iterator[int])
    print(group.progress.done, group.id, len(group), group.status(), group.done())
    group.cancel()
    assert_type(many.spawn_map([1], ["b"], [b"c"]), CallGroup[complex])
    assert_type(fetch.spawn_map(["u"], kwargs={"pages": 3}), CallGroup[str])
    assert_type(Ranker(depth=1).score.spawn_map(["q"], ["d"]), CallGroup[float])
    assert_type(CallGroup.from_id(group.id), CallGroup[Any])


def stored() -> None:
    ref = deepserve.put([1, 2])
    assert_type(ref, Ref[list[int]])
    assert_type(total.remote(ref.arg), int)
    assert_type(square.remote(square.spawn(3).arg), int)
    assert_type(list(square.map([square.spawn(3).arg, 3])), list[int])
    ref.delete()


def batched() -> None:
    assert_type(embed("a"), list[float])
    assert_type(embed.remote("a"), list[float])
    assert_type(embed.spawn("a"), Call[list[float]])
    assert_type(embed_later.remote("a", 2), bytes)
    assert_type(Ranker(depth=1).scores.remote("q"), float)


def methods() -> None:
    ranker = Ranker(model="large", depth=3)
    assert_type(ranker.model, str)
    assert_type(ranker.score("q", "d"), float)
    assert_type(ranker.score.local("q", "d"), float)
    assert_type(ranker.score.remote("q", "d"), float)
    assert_type(ranker.score.spawn("q", "d"), Call[float])
    assert_type(ranker.score.map(["q"], ["d"]), Iterator[float])
    assert_type(ranker.score.starmap([("q", "d")]), Iterator[float])
    ranker.score.for_each(["q"], ["d"])
    assert_type(ranker.score_later.remote("q"), int)
    assert_type(ranker.words("q"), Iterator[str])
    assert_type(ranker.words.remote("q"), Iterator[str])
    assert_type(ranker.words.spawn("q").stream(), Iterator[str])
    assert_type(ranker.words_later.remote("q"), Iterator[int])


def deployed() -> None:
    found = Function.from_name("papers", "fetch")
    assert_type(found, Function[..., Any])
    print(found.remote("https://..."), list(found.map(["u"])), found.spawn("u").get())
    remote_class = deepserve.Cls.from_name("papers", "Ranker")
    print(remote_class(model="large"))


def pools() -> None:
    square.autoscaler.update(min_pods=2, max_pods=8)
    later.autoscaler.update(buffer_pods=1)
    print(square.autoscaler.settings(), Ranker(depth=1).score.autoscaler.settings())
    print(square.get_current_stats().num_total_pods, Function.from_name("papers", "fetch").autoscaler.settings())


def inside() -> None:
    assert_type(deepserve.context().attempt, int)
    assert_type(deepserve.context().request_id, str)
    assert_type(deepserve.context().idempotency_key, str)
    assert_type(deepserve.cancelled(), bool)


llm = deepserve.Model("tiny", source="tiny")


def test_with_the_plugin(deepserve_local: LocalEngine, scripted_model: Callable[..., ScriptedModel]) -> None:
    said = scripted_model(llm, ["hello", tool_call("add", a=1)])
    with deepserve_local.kill_pod_at(step=2, when="end") as kill:
        assert_type(square.remote(3), int)
    assert_type(kill.pod_id, str)
    print(said.asked, deepserve_local.pods(), deepserve_local.requests())
    deepserve_local.wait_idle()


async def twins() -> None:
    assert_type(await square.remote.aio(3), int)
    assert_type(await later(3), str)
    assert_type(await later.remote.aio(3), str)
    assert_type(await square.spawn.aio(3), Call[int])
    assert_type(await (await square.spawn.aio(3)).get.aio(timeout=3), int)
    assert_type(tokens.remote.aio(3), AsyncIterator[str])
    assert_type((await tokens.spawn.aio(3)).stream.aio(), AsyncIterator[str])
    assert_type((await tokens.spawn.aio(3)).stream.aio(with_offset=True), AsyncIterator[tuple[int, str]])
    assert_type(square.map.aio(range(3)), AsyncIterator[int])
    assert_type(square.map.aio(numbers()), AsyncIterator[int])
    assert_type(square.map.aio(numbers(), return_exceptions=True), AsyncIterator[int | Exception])
    assert_type(many.starmap.aio([(1, "b", b"c")], return_exceptions=True), AsyncIterator[complex | Exception])
    assert_type(fetch.map.aio(["u"], kwargs={"pages": 2}), AsyncIterator[str])
    assert_type(many.starmap.aio([(1, "b", b"c")]), AsyncIterator[complex])
    await square.for_each.aio(range(3))
    group = await square.spawn_map.aio(numbers())
    assert_type(group, CallGroup[int])
    assert_type(await group.get.aio(), list[int])
    async for result in group:
        assert_type(result, int)
    assert_type(await embed.remote.aio("a"), list[float])
    assert_type(await embed_later("a", 2), bytes)
    ranker = Ranker(depth=1)
    assert_type(await ranker.score.remote.aio("q", "d"), float)
    assert_type(await ranker.score_later("q"), int)
    assert_type(ranker.words.remote.aio("q"), AsyncIterator[str])
    assert_type(ranker.score.map.aio(["q"], ["d"]), AsyncIterator[float])


async def numbers() -> AsyncIterator[int]:
    yield 1
