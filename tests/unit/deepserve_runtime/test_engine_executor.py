"""What an engine does wrong, or a model writes wrong, is an error of its own tasks and never of the pod."""

from __future__ import annotations

import queue
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

pytest.importorskip("torch")

from deepserve._values import decode_exception  # noqa: E402
from deepserve.errors import ModelError, ModelLoadError  # noqa: E402
from deepserve.protocol.messages import EngineReport, PodEnding, SetContextTtl, TaskFinished  # noqa: E402
from deepserve.protocol.model_io import ENGINE_SEATS, GenerationParams, PromptContext, TokenizedPrompt  # noqa: E402
from deepserve.protocol.specs import CodeRef, FunctionSpec, ModelSpec, Resources, Scaling  # noqa: E402
from deepserve_runtime.executors import task_reader  # noqa: E402
from deepserve_runtime.executors.completion import Piece  # noqa: E402
from deepserve_runtime.executors.engine import EngineExecutor  # noqa: E402
from deepserve_runtime.executors.loaded_engine import LoadedEngine  # noqa: E402
from deepserve_runtime.executors.started_engine import HELD, LATER, MAPPED  # noqa: E402
from deepserve_runtime.executors.task_reader import sampling_params  # noqa: E402
from deepserve_runtime.executors.whole_calls import WholeCalls  # noqa: E402
from deepserve_runtime.step_clock import StepClock  # noqa: E402
from deepserve_runtime.task_threads import TaskThreads  # noqa: E402
from flowserve.errors import LoadingError  # noqa: E402
from flowserve.loading.mapped_file import MappedFile  # noqa: E402
from flowserve.sampling_params import SamplingParams  # noqa: E402
from flowserve.tool_calls import make_parser  # noqa: E402
from tests.tiny_models import make_model  # noqa: E402
from tests.unit.deepserve_runtime.fake_pod import FakeLink, FakePod  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny", "qwen3")


def executor_of(
    folder: Path, *accelerators: str, loaded: LoadedEngine | None = None, seats: int = ENGINE_SEATS
) -> EngineExecutor:
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threads = cast(TaskThreads, SimpleNamespace(main=SimpleNamespace(inbox=inbox, link=FakeLink())))
    resources = Resources(accelerators=accelerators)
    code = CodeRef("builtin", "", "")
    spec = FunctionSpec(
        "models", "tiny", "model", code, resources=resources, scaling=Scaling(max_inputs=seats),
        model=ModelSpec("tiny", str(folder)),
    )  # fmt: skip
    return EngineExecutor(spec, threads, loaded)


def test_an_executor_has_the_seats_that_the_controller_counts_on(folder: Path) -> None:
    assert executor_of(folder, seats=2).slots == 2


def main_link(executor: EngineExecutor) -> FakeLink:
    return cast(FakeLink, executor._main.link)


def assign(executor: EngineExecutor, *task_ids: str) -> list[FakePod]:
    pods = []
    for task_id in task_ids:
        pods.append(FakePod())
        prompt = TokenizedPrompt([1, 2, 3], GenerationParams(max_tokens=3, temperature=0.0))
        executor.assign(pods[-1].task(msgspec.to_builtins(prompt), task_id))
    return pods


def run_waiting(executor: EngineExecutor) -> None:
    """What the pod's main thread would do."""
    while not executor._main.inbox.empty():
        work = executor._main.inbox.get()
        assert work is not None
        work()


def run_until_end(executor: EngineExecutor) -> bool:
    """Whether the main thread was told to end, after all that came before."""
    while not executor._main.inbox.empty():
        work = executor._main.inbox.get()
        if work is None:
            return True
        work()
    return False


def test_a_step_that_raises_fails_its_tasks_and_the_next_ones_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = executor_of(folder)
    executor.load()
    with monkeypatch.context() as broken:

        def forward(*arguments: Any) -> Any:
            raise RuntimeError("no kernel for this")

        broken.setattr(executor._engine._worker._runner, "run", forward)
        pods = assign(executor, "t-1", "t-2")
        run_waiting(executor)
    for pod in pods:
        [(finished, payload)] = pod.link.of(TaskFinished)
        error = decode_exception(finished.value, payload)
        assert isinstance(error, ModelError) and "tiny" in str(error) and "no kernel for this" in str(error)
    executor._engine.check_invariants()
    assert not executor._engine.has_work
    [after] = assign(executor, "t-3")
    run_waiting(executor)
    assert after.finished.outcome.is_ok


class BrokenParser:
    def __init__(self, breaks_at: str) -> None:
        self._breaks_at = breaks_at

    def feed(self, text: str) -> Piece:
        if self._breaks_at == "feed":
            raise TypeError("unhashable type")
        return Piece("\udc00" if self._breaks_at == "flush" else text)

    def finish(self) -> Piece:
        if self._breaks_at == "finish":
            raise TypeError("unhashable type")
        return Piece()


@pytest.mark.parametrize("breaks_at", ["feed", "finish", "flush"])
def test_an_answer_that_cannot_be_read_fails_its_task_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, breaks_at: str
) -> None:
    monkeypatch.setattr(task_reader, "WholeCalls", lambda parser, journal, index: BrokenParser(breaks_at))
    executor = executor_of(folder)
    executor.load()
    bad = FakePod()
    prompt = TokenizedPrompt([1, 2, 3], GenerationParams(max_tokens=3, temperature=0.0), parse_tools=True)
    executor.assign(bad.task(msgspec.to_builtins(prompt), "t-1"))
    [good] = assign(executor, "t-2")
    run_waiting(executor)
    [(finished, payload)] = bad.link.of(TaskFinished)
    error = decode_exception(finished.value, payload)
    assert isinstance(error, ModelError) and "the answer could not be read" in str(error)
    assert good.finished.outcome.is_ok
    executor._engine.check_invariants()
    assert not executor._engine.has_work and not executor._generations


@pytest.mark.parametrize("value", ["123456789012345678901234567890", '"\\ud83d"', '{"a": ["\\udc00"]}'])
def test_a_call_whose_arguments_cannot_travel_is_malformed(value: str) -> None:
    parser = WholeCalls(make_parser("hermes"))
    piece = parser.feed(f'<tool_call>{{"name": "add", "arguments": {{"a": {value}}}}}</tool_call>')
    assert piece.calls == ()
    [text] = piece.malformed
    assert '"add"' in text and msgspec.msgpack.encode(text)


@pytest.mark.parametrize(
    ("parser", "text"),
    [
        ("hermes", '<tool_call>{"name": "a\\ud800", "arguments": {}}</tool_call>'),
        ("llama3_json", '{"name": "a\\ud800", "parameters": {}}'),
        ("pythonic", '[a(b="\\ud800")]'),
    ],
)
def test_a_call_with_half_a_character_is_malformed_and_can_be_reported(parser: str, text: str) -> None:
    each = WholeCalls(make_parser(parser))
    pieces = [each.feed(text), each.finish()]
    assert not any(piece.calls for piece in pieces)
    (malformed,) = (found for piece in pieces for found in piece.malformed)
    assert "\\ud800" in malformed and msgspec.msgpack.encode(malformed)


def test_accelerators_in_order_of_preference(folder: Path) -> None:
    executor = executor_of(folder, "npu:910c:2", "cpu")
    executor.load()
    assert executor._engine.config.device == "cpu"
    with pytest.raises(ModelLoadError, match="'tiny'.*npu::1.*not supported"):
        executor_of(folder, "npu::1").load()


def test_a_malformed_folder_is_a_load_error(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = msgspec.json.decode((tmp_path / "config.json").read_bytes())
    (tmp_path / "config.json").write_bytes(msgspec.json.encode({**config, "rope_parameters": [1]}))
    with pytest.raises(ModelLoadError, match="'tiny'"):
        executor_of(tmp_path).load()


def test_calls_in_the_formats_of_other_models() -> None:
    """A call arrives whole when its last fragment has; what is no JSON is reported, text stays text."""
    parser = WholeCalls(make_parser("mistral"))
    assert parser.feed("Well. [TOOL_CALLS]add[ARGS]") == Piece("Well.")
    assert parser.feed('{"a": 1') == Piece()
    piece = parser.feed('}[TOOL_CALLS]add[ARGS]{"a": ')
    assert piece.text == "" and [(call.name, call.arguments) for call in piece.calls] == [("add", {"a": 1})]
    assert parser.finish() == Piece(malformed=('{"name": "add", "arguments": {"a": }',))
    llama = WholeCalls(make_parser("llama3_json"))
    (call,) = llama.feed('{"name": "add", "parameters": {"a": 2}}').calls
    assert (call.name, call.arguments) == ("add", {"a": 2}) and call.id.startswith("call_")
    hermes = WholeCalls(make_parser("hermes"))
    assert hermes.feed("a <tool_call>{oops}</tool_call>") == Piece("a", malformed=("<tool_call>{oops}</tool_call>",))
    assert [call.arguments for call in hermes.feed('<tool_call>{"name": "add"}</tool_call>').calls] == [{}]


def test_a_task_waits_for_its_grammar_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowserve import structured

    release, compile_now = threading.Event(), structured._compile

    def compile_later(grammar: str, tokenizer: Any) -> Any:
        assert release.wait(60)
        return compile_now(grammar, tokenizer)

    monkeypatch.setattr(structured, "_compile", compile_later)
    executor = executor_of(folder)
    executor.load()
    params = GenerationParams(max_tokens=9, temperature=0.0, json_schema={"enum": ["yes", "no"]})
    waiting, cancelled = FakePod(), FakePod()
    executor.assign(waiting.task(msgspec.to_builtins(TokenizedPrompt([1, 2, 3], params)), "t-1"))
    task = cancelled.task(msgspec.to_builtins(TokenizedPrompt([1, 2, 3], params)), "t-2")
    executor.assign(task)
    [other] = assign(executor, "t-3")
    run_waiting(executor)
    assert other.finished.outcome.is_ok and not waiting.link.of(TaskFinished)
    task.cancel("client_cancelled")
    run_waiting(executor)
    assert not cancelled.finished.outcome.is_ok and len(executor._compiling) == 1
    release.set()
    executor._main.inbox.get(timeout=60)()
    run_waiting(executor)
    assert waiting.finished.outcome.is_ok and not executor._compiling


def test_an_idle_engine_sleeps_and_its_next_task_wakes_it(folder: Path) -> None:
    executor = executor_of(folder)
    executor.load()
    [before] = assign(executor, "t-1")
    executor.sleep(1)
    assert not executor._engine.is_sleeping, "a task waits"
    run_waiting(executor)
    executor.sleep(1)
    assert executor._engine.is_sleeping
    executor._wake()  # news without work
    run_waiting(executor)
    assert executor._engine.is_sleeping
    [after] = assign(executor, "t-2")
    run_waiting(executor)
    assert not executor._engine.is_sleeping
    assert after.finished.outcome.is_ok and after.link.of(TaskFinished)[0][1] == before.link.of(TaskFinished)[0][1]


def cache_context(executor: EngineExecutor, task_id: str, context_id: str) -> None:
    prompt = TokenizedPrompt([5] * 64, GenerationParams(max_tokens=1), context=PromptContext(context_id, 64, 600.0))
    executor.assign(FakePod().task(msgspec.to_builtins(prompt), task_id, method="cache"))


def test_a_context_that_is_over_is_unpinned_behind_the_tasks_that_came_before(folder: Path) -> None:
    """Whether the engine works, rests or sleeps; what it does not know is nothing to it."""
    executor = executor_of(folder)
    executor.load()
    cache_context(executor, "t-1", "ctx-1")
    run_waiting(executor)
    pinned = executor._engine.num_pinned_blocks
    assert pinned > 0
    for message in (SetContextTtl("ctx-2", 0.0), SetContextTtl("ctx-1", 60.0)):
        executor.set_context_ttl(message)
    run_waiting(executor)
    assert executor._engine.num_pinned_blocks == pinned
    executor.set_context_ttl(SetContextTtl("ctx-1", 0.0))
    run_waiting(executor)
    assert executor._engine.num_pinned_blocks == 0
    assert [report.pinned_blocks for report, _ in main_link(executor).of(EngineReport)] == [pinned, pinned, 0]
    chat = TokenizedPrompt([5] * 70, GenerationParams(max_tokens=2), context=PromptContext("ctx-1", 64, 600.0))
    executor.assign(FakePod().task(msgspec.to_builtins(chat), "t-2"))  # which was on its way at the deletion
    executor.set_context_ttl(SetContextTtl("ctx-1", 0.0))
    run_waiting(executor)
    assert (executor._engine.num_pinned_blocks, executor._engine.stats().num_contexts) == (0, 0)
    cache_context(executor, "t-3", "ctx-1")
    run_waiting(executor)
    executor.sleep(1)
    executor.set_context_ttl(SetContextTtl("ctx-1", 0.0))
    run_waiting(executor)
    assert executor._engine.is_sleeping and executor._engine.stats().num_contexts == 0


def test_a_checkpoint_that_changed_during_the_sleep_ends_the_pod_and_leaves_its_task_to_another(
    folder: Path, tmp_path: Path
) -> None:
    changed = Path(shutil.copytree(folder, tmp_path / "changed"))
    executor = executor_of(changed)
    executor.load()
    executor.sleep(2)
    config = (changed / "config.json").read_text()
    (changed / "config.json").write_text(config.replace('"rope_theta": 10000.0', '"rope_theta": 500.0'))
    pods = assign(executor, "t-1", "t-2")
    assert run_until_end(executor)
    assert [pod.link.sent for pod in pods] == [[], []], "another pod answers them"
    [(ending, _)] = main_link(executor).of(PodEnding)
    assert "config.json changed on disk, it has become another model" in ending.reason


def test_weights_that_do_not_come_are_an_error_of_who_asked_and_end_the_pod(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor_of(folder).load()  # converted
    lay_out_cold(monkeypatch)
    executor = executor_of(folder)
    broken = threading.Event()

    def read_into(file: MappedFile, offset: int, buffer: memoryview) -> None:
        broken.wait(60)
        raise LoadingError(f"{file.path}: cannot be read at byte {offset}: Input/output error")

    monkeypatch.setattr(MappedFile, "read_into", read_into)
    executor.load()  # ready, for the first request's first layers are all it needs
    assert executor.source == "file" and "later layers are read while it serves" in executor.source_reason
    pods = assign(executor, "t-1", "t-2")
    broken.set()
    assert run_until_end(executor)
    for pod in pods:
        [(finished, payload)] = pod.link.of(TaskFinished)
        error = decode_exception(finished.value, payload)
        assert isinstance(error, ModelLoadError) and "tiny: its weights did not come" in str(error)
        assert "Input/output error" in str(error)
    [(ending, _)] = main_link(executor).of(PodEnding)
    assert "Input/output error" in ending.reason


def test_a_forked_executor_says_when_it_reads_what_its_template_only_maps(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    executor_of(folder).load()
    lay_out_cold(monkeypatch)
    spec = executor_of(folder)._spec
    capsys.readouterr()
    loaded = LoadedEngine(spec, StepClock())
    said = "model 'tiny': weights from the file: 10% of the converted weights were in memory\n"
    assert capsys.readouterr().err == said
    first = executor_of(folder, loaded=loaded)
    read_into, is_open = MappedFile.read_into, threading.Event()

    def read_later(file: MappedFile, offset: int, buffer: memoryview) -> None:
        is_open.wait(60)
        read_into(file, offset, buffer)

    monkeypatch.setattr(MappedFile, "read_into", read_later)
    first.load()
    is_open.set()
    assert (first.source, first.source_reason) == ("fork", f"{MAPPED}; {LATER}")
    [pod] = assign(first, "t-1")
    run_waiting(first)
    assert pod.finished.outcome.is_ok
    first._engine.close()
    loaded.template._loaded.weights.file.is_there = True
    second = executor_of(folder, loaded=loaded)
    second.load()
    assert (second.source, second.source_reason, second.is_template_stale) == ("fork", HELD, False)
    [again] = assign(second, "t-1")
    run_waiting(second)
    assert again.link.of(TaskFinished)[0][1] == pod.link.of(TaskFinished)[0][1]


def test_who_waits_for_the_first_executors_pays_for_no_step_but_their_own(folder: Path) -> None:
    """Later ones are ready after a first step, which no request pays for."""
    loaded = LoadedEngine(executor_of(folder)._spec, StepClock(), is_awaited=True)
    loaded.settle()  # before each fork
    first = executor_of(folder, loaded=loaded)
    first.load()
    assert first._engine.stats().num_steps == 0
    [pod] = assign(first, "t-1")
    run_waiting(first)
    loaded.settle()
    second = executor_of(folder, loaded=loaded)
    second.load()
    assert second._engine.stats().num_steps == 1
    [again] = assign(second, "t-1")
    run_waiting(second)
    assert again.link.of(TaskFinished)[0][1] == pod.link.of(TaskFinished)[0][1] and pod.finished.outcome.is_ok


def test_an_executor_falls_back_from_the_fork_of_a_changed_checkpoint_and_says_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = Path(shutil.copytree(folder, tmp_path / "changed"))
    loaded = LoadedEngine(executor_of(changed)._spec, StepClock())
    weights = changed / "model.safetensors"
    weights.with_suffix(".new").write_bytes(weights.read_bytes())
    weights.with_suffix(".new").replace(weights)
    capsys.readouterr()
    for source in ("conversion", "host memory"):
        executor = executor_of(changed, loaded=loaded)
        executor.load()
        assert (executor.source, executor.is_template_stale) == (source, True)
        assert executor.source_reason.endswith(f"not forked: {changed}: model.safetensors changed on disk")
        assert f"weights from {source}: {executor.source_reason}" in capsys.readouterr().err
    weights.unlink()
    held = executor_of(changed, loaded=loaded)
    held.load()
    assert (held.source, held.is_template_stale) == ("fork", False)
    assert held.source_reason == f"{HELD}; {changed}: model.safetensors vanished from disk"
    with pytest.raises(ModelLoadError, match="no model.safetensors"):
        executor_of(changed).load()


def lay_out_cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the converted weights were large and not in memory."""
    monkeypatch.setattr("flowserve.loading.host_copy._SMALL_BYTES", 1)
    for module in ("loading.host_copy", "device.cpu_kernels.weight_file"):
        monkeypatch.setattr(f"flowserve.{module}.resident_share", lambda path: 0.1)


def test_what_is_asked_of_sampling_reaches_the_engine_over_the_models_defaults() -> None:
    given: dict[str, Any] = {
        "max_tokens": 20, "temperature": 0.8, "top_p": 0.9, "top_k": 50, "min_p": 0.01, "seed": 3, "min_tokens": 4,
        "presence_penalty": 1.5, "frequency_penalty": 0.5, "repetition_penalty": 1.6, "logit_bias": {278: -100.0},
        "ignore_eos": True, "bad_words": ["fox"], "stop": ["zzz"], "stop_token_ids": [399], "n": 2, "logprobs": 3,
    }  # fmt: skip
    assert given.keys() | {"json_schema"} == set(GenerationParams.__struct_fields__)
    assert sampling_params(GenerationParams(**given), {"temperature": 0.1}) == SamplingParams(**given)
    assert sampling_params(GenerationParams(), {"temperature": 0.1}) == SamplingParams(temperature=0.1)
