"""Vectors are computed a piece at a time: what else the pod's main thread has to do goes on between them."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

pytest.importorskip("torch")

from deepserve._values import decode_exception  # noqa: E402
from deepserve.errors import PromptTooLongError  # noqa: E402
from deepserve.protocol.messages import TaskFinished  # noqa: E402
from deepserve.protocol.model_io import Embedded, EmbedInput, GenerationParams, TokenizedPrompt  # noqa: E402
from deepserve.protocol.specs import CodeRef, FunctionSpec, ModelSpec  # noqa: E402
from deepserve_runtime.executors.embedder import MUCH_BYTES, Embedder  # noqa: E402
from deepserve_runtime.executors.embedding import EmbeddingExecutor  # noqa: E402
from deepserve_runtime.executors.engine import EngineExecutor  # noqa: E402
from deepserve_runtime.task import Task  # noqa: E402
from deepserve_runtime.task_threads import TaskThreads  # noqa: E402
from flowserve import EmbeddingModel  # noqa: E402
from flowserve.embedding_queue import EmbeddingQueue  # noqa: E402
from flowserve.errors import LoadingError  # noqa: E402
from tests.tiny_models import make_model  # noqa: E402
from tests.unit.deepserve_runtime.fake_pod import FakeLink, FakePod  # noqa: E402

LONG = [[7 + number % 5] * 10 for number in range(12)]


class Running:
    """An executor in this thread. `events`: what it computed, in order."""

    def __init__(self, kind: type[EngineExecutor] | type[EmbeddingExecutor], folder: Path) -> None:
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threads = cast(TaskThreads, SimpleNamespace(main=SimpleNamespace(inbox=self.inbox, link=FakeLink())))
        spec = FunctionSpec("models", "tiny", "model", CodeRef("builtin", "", ""), model=ModelSpec("tiny", str(folder)))
        self.executor = kind(spec, threads)
        self.executor.load()
        self.embedder: Embedder = self.executor._embedder
        self.events: list[str] = []
        if isinstance(self.executor, EngineExecutor):
            self._watch(self.executor._engine, "step", "step")
        else:
            self.model = cast(EmbeddingQueue[Any], self.embedder.load())._model
            self._watch(self.model, "begin", "batch")

    def _watch(self, owner: Any, name: str, word: str) -> None:
        call = getattr(owner, name)

        def watched(*arguments: Any) -> Any:
            self.events.append(word)
            return call(*arguments)

        setattr(owner, name, watched)

    def embed(self, texts: list[Any], task_id: str = "e") -> tuple[FakePod, Task]:
        pod = FakePod()
        task = pod.task(msgspec.to_builtins(EmbedInput(texts)), task_id, method="embed")
        self.executor.assign(task)
        return pod, task

    def chat(self, max_tokens: int) -> FakePod:
        pod = FakePod()
        prompt = TokenizedPrompt([1, 2, 3], GenerationParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True))
        self.executor.assign(pod.task(msgspec.to_builtins(prompt), "c"))
        return pod

    def run(self) -> None:
        """What the pod's main thread would do; it waits for what is read beside it."""
        while not self.inbox.empty() or self.embedder._away:
            self.inbox.get(timeout=60)()
        assert not self.embedder.is_busy and not self.embedder.has_piece


def vectors_of(pod: FakePod) -> list[list[float]]:
    [(finished, payload)] = pod.link.of(TaskFinished)
    assert finished.outcome.is_ok, finished.outcome
    return msgspec.msgpack.decode(payload, type=Embedded).vectors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny", "qwen3")


@pytest.fixture(autouse=True)
def two_texts_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowserve.embedding_model._CPU_TURN_TOKENS", 20)


@pytest.fixture
def engine(folder: Path) -> Running:
    return Running(EngineExecutor, folder)


@pytest.fixture
def encoder(folder: Path) -> Running:
    return Running(EmbeddingExecutor, folder)


def test_an_answer_is_generated_beside_a_long_list(engine: Running, folder: Path) -> None:
    embedded, _ = engine.embed(LONG * 20)
    answered = engine.chat(4)
    ends: list[str] = []
    for name, pod in (("embedded", embedded), ("answered", answered)):
        send = pod.link.send
        pod.link.send = lambda *sent, send=send, name=name: (ends.append(name), send(*sent))[1]  # type: ignore[method-assign]
    engine.run()
    assert answered.finished.outcome.is_ok and ends[-1] == "embedded"
    expected = EmbeddingModel(folder, num_threads=1).embed(LONG)
    for vector, want in zip(vectors_of(embedded), expected * 20, strict=True):
        assert vector == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize("kind", [EngineExecutor, EmbeddingExecutor])
def test_a_cancel_ends_a_long_list(kind: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = Running(kind, folder)
    embedded, task = running.embed(LONG * 200)
    owner, name = (running.executor._engine, "step") if kind is EngineExecutor else (running.model, "begin")
    call = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *given: (task.cancel("cancelled"), call(*given))[1])
    running.run()
    assert embedded.finished.outcome.kind == "cancelled" and len(running.events) <= 2
    monkeypatch.undo()
    after, _ = running.embed(LONG[:1])
    running.run()
    assert len(vectors_of(after)) == 1


def test_a_cancel_beside_the_last_step_does_not_end_the_pod(engine: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its vectors are there, and nobody has been told yet."""
    embedded, task = engine.embed(LONG[:1])
    owner = engine.executor._engine  # type: ignore[union-attr]
    step = owner.step
    monkeypatch.setattr(owner, "step", lambda: (step(), task.cancel("cancelled"))[0])
    engine.run()
    assert embedded.finished.outcome.kind == "cancelled"


def test_an_engine_that_sleeps_is_woken(engine: Running) -> None:
    before, _ = engine.embed(LONG[:2], "e-1")
    engine.run()
    engine.executor.sleep(1)
    after, _ = engine.embed(LONG[:2], "e-2")
    engine.run()
    for vector, want in zip(vectors_of(after), vectors_of(before), strict=True):
        assert vector == pytest.approx(want, abs=1e-5)


def test_an_engine_that_does_not_wake_is_the_answer(engine: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next one tries again."""
    engine.executor.sleep(1)
    with monkeypatch.context() as patched:
        hold = engine.executor._engine._hold  # type: ignore[union-attr]
        patched.setattr(hold, "restore", lambda: (_ for _ in ()).throw(LoadingError("no memory")))
        failed, _ = engine.embed(LONG[:1], "e-1")
        engine.run()
    assert "no memory" in failed.finished.outcome.detail
    after, _ = engine.embed(LONG[:1], "e-2")
    engine.run()
    assert len(vectors_of(after)) == 1


def test_a_broken_step_is_the_answer(engine: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded, _ = engine.embed(LONG)
    runner = engine.executor._engine._worker._runner  # type: ignore[union-attr]
    monkeypatch.setattr(runner, "run", lambda *given: 1 // 0)
    engine.run()
    assert "ZeroDivisionError" in embedded.finished.outcome.detail


def test_what_was_cancelled_before_it_began_is_not_computed(encoder: Running) -> None:
    embedded, task = encoder.embed(LONG)
    task.cancel("timeout")
    encoder.run()
    assert embedded.finished.outcome.kind == "timeout" and not encoder.events


def test_much_text_is_tokenized_beside_the_others(engine: Running) -> None:
    may_go_on = threading.Event()
    engine.embedder._thread_beside().inbox.put(lambda: may_go_on.wait(60) and None)
    refused, _ = engine.embed(["short", "word " * MUCH_BYTES], "e-1")
    left, task = engine.embed(["word " * MUCH_BYTES], "e-2")
    read, _ = engine.embed(["a"] * MUCH_BYTES, "e-3")
    short, answered = engine.embed(["short"], "e-4")[0], engine.chat(3)
    task.cancel("cancelled")
    while not engine.inbox.empty():
        engine.inbox.get()()
    assert answered.finished.outcome.is_ok and len(vectors_of(short)) == 1
    assert left.finished.outcome.kind == "cancelled"
    assert not refused.link.of(TaskFinished) and not read.link.of(TaskFinished)
    may_go_on.set()
    engine.run()
    assert len(vectors_of(read)) == MUCH_BYTES
    [(finished, payload)] = refused.link.of(TaskFinished)
    error = decode_exception(finished.value, payload)
    assert isinstance(error, PromptTooLongError) and "tiny: text 1: prompt of 163840 characters" in str(error)


@pytest.mark.parametrize("kind", [EngineExecutor, EmbeddingExecutor])
def test_many_numbers_are_spelled_beside_the_others(kind: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepserve_runtime.executors.embedder.MANY_NUMBERS", 64 * 5)
    running = Running(kind, folder)
    may_go_on = threading.Event()
    many, (left, task) = running.embed(LONG, "e-1")[0], running.embed(LONG, "e-2")
    running.embedder._thread_beside().inbox.put(lambda: may_go_on.wait(60) and None)
    few = running.embed(LONG[:2], "e-3")[0]
    while len(running.embedder._away) < 2 or not few.link.of(TaskFinished):
        running.inbox.get(timeout=60)()
    task.cancel("cancelled")
    may_go_on.set()
    running.run()
    assert left.finished.outcome.kind == "cancelled"
    assert vectors_of(many)[:2] == [pytest.approx(vector, abs=1e-5) for vector in vectors_of(few)]


def test_a_batch_that_raises_fails_the_tasks_in_it(encoder: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    model = encoder.model
    begin = model.begin

    def fail_long(prompts: Any) -> Any:
        if len(prompts[0]) == 10:
            raise RuntimeError("no kernel for this")
        return begin(prompts)

    monkeypatch.setattr(model, "begin", fail_long)
    broken, whole = encoder.embed(LONG, "e-1")[0], encoder.embed([[5]], "e-2")[0]
    encoder.run()
    assert "no kernel for this" in broken.finished.outcome.detail and len(vectors_of(whole)) == 1


def test_a_short_list_does_not_wait_for_all_of_a_long_one(encoder: Running) -> None:
    """And it is computed with what is of its length."""
    long, _ = encoder.embed(LONG, "e-1")
    one, other, none = (encoder.embed(texts, f"e-{texts}")[0] for texts in ([[5] * 3], [[6] * 3], []))
    ends: list[str] = []
    for name, pod in (("long", long), ("one", one), ("other", other)):
        send = pod.link.send
        pod.link.send = lambda *sent, send=send, name=name: (ends.append(name), send(*sent))[1]  # type: ignore[method-assign]
    encoder.run()
    assert ends == ["one", "other", "long"] and len(encoder.events) == 7
    assert vectors_of(none) == []
    encoder.executor.sleep(1)
    assert encoder.embedder._queue is None
