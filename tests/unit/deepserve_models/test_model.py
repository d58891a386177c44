"""A Model's specification, and its requests over a client whose controller is the test."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deepserve import _context, _current_client, _model
from deepserve._client import Client
from deepserve._model import Model
from deepserve._model_context import ContextId
from deepserve._model_source import sources_named_under
from deepserve._tool import tool
from deepserve._values import encode_exception
from deepserve.errors import (
    AsyncUsageError,
    InvalidOption,
    ModelLoadError,
    OutputTruncated,
    PromptTooLongError,
    SerializationError,
)
from deepserve.protocol.credit import STREAM_ITEMS
from deepserve.protocol.framing import Buffer
from deepserve.protocol.messages import (
    CancelRequest,
    DefineFunction,
    GrantCredit,
    Message,
    OpenRequest,
    Outcome,
    RequestFinished,
    StreamItems,
    Timings,
    Value,
    Welcome,
)
from deepserve.protocol.model_io import (
    ChatInput,
    CompletionInput,
    Generated,
    GeneratedDelta,
    LikelyToken,
    TokenLogprob,
    ToolCall,
)
from deepserve.protocol.specs import CodeRef, function_id
from deepserve.testing.script import Scripts


class Controller:
    """Answers each request with the next of `answers`, from another thread: a Generated, or an exception."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.inputs: list[Any] = []
        self.answers: list[Any] = []
        self.pieces: list[str] = []
        self.outcome = "error"
        self.client = Client(self._take, welcome=Welcome(1, "c", "embedded"), client_id="t", is_pod=False)

    def _take(self, message: Message, payload: Buffer) -> None:
        self.sent.append(message)
        if isinstance(message, OpenRequest):
            kind = ChatInput if message.method == "chat" else CompletionInput
            self.inputs.append(msgspec.msgpack.decode(payload, type=kind))
            if self.answers:
                threading.Thread(target=self._answer, args=(message.request_id, self.answers.pop(0))).start()

    def _answer(self, request_id: str, answer: Any) -> None:
        for offset, piece in enumerate(self.pieces):
            item = msgspec.msgpack.encode(GeneratedDelta(piece))
            self.client.deliver(StreamItems(request_id, offset, (Value("msgpack", len(item)),)), item)
        if isinstance(answer, Exception):
            value, payload = encode_exception(answer)
            outcome = Outcome(self.outcome, "went wrong")  # type: ignore[arg-type]
        else:
            payload = msgspec.msgpack.encode(answer)
            value, outcome = Value("msgpack", len(payload)), Outcome("ok")
        self.client.deliver(RequestFinished(request_id, outcome, Timings(), value, len(self.pieces)), payload)

    def sent_of(self, kind: type[Message]) -> list[Any]:
        return [message for message in self.sent if isinstance(message, kind)]


@pytest.fixture
def controller() -> Iterator[Controller]:
    made, before = Controller(), _current_client.installed_client()
    _current_client.install(made.client)
    yield made
    _current_client.install(before)


@pytest.fixture(autouse=True)
def holds_a_model(tmp_path: Path) -> None:
    made_model(tmp_path)


def made_model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def llm(tmp_path: Path) -> Model:
    return Model("tiny", source=tmp_path)


def test_spec_names_its_tokenizer_and_its_options(tmp_path: Path) -> None:
    model = Model("tiny", str(tmp_path), accelerator="gpu:h100:2", dtype="float32", min_pods=1, max_model_len=64)
    spec = model.spec
    assert (spec.kind, spec.environment, spec.code) == ("model", "flowserve", CodeRef("builtin", "", ""))
    assert (spec.resources.accelerators, spec.scaling.min_pods, spec.scaling.max_pods) == (("gpu:h100:2",), 1, 8)
    assert spec.model is not None
    assert (spec.model.source, spec.model.dtype, spec.model.max_model_len) == (str(tmp_path), "float32", 64)
    tokenizer = model.tokenizer_spec
    assert spec.tokenizer == function_id(tokenizer)
    assert (tokenizer.kind, tokenizer.environment, tokenizer.scaling.min_pods) == ("tokenizer", "tokenizer", 1)
    assert (spec.scaling.max_inputs, tokenizer.scaling.max_inputs) == (32, 32), "known before any pod is there to say"
    assert Model("tiny", str(tmp_path), dtype="auto").spec.tokenizer == Model("tiny", str(tmp_path)).spec.tokenizer


def test_relative_source_from_the_current_folder_or_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_model(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    assert Model("tiny", "m").source == str(tmp_path / "m")
    monkeypatch.undo()
    beside_this_file = Model("tiny", "../../../examples/models/tiny-tools")
    assert beside_this_file.source == str(Path(__file__).parents[3] / "examples/models/tiny-tools")
    assert Model("qwen", "Qwen/Qwen3-0.6B").source == "Qwen/Qwen3-0.6B"


def test_missing_folder_shows_at_first_use() -> None:
    for source in ("./none", "/none/at/all", __file__):
        model = Model("tiny", source)
        with pytest.raises(ModelLoadError, match="is no folder|is a file"):
            model.chat("hi")
        pickle.loads(pickle.dumps(model))


def test_a_file_is_no_model_even_where_its_name_could_be_one_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Makefile").touch()
    monkeypatch.chdir(tmp_path)
    for source in ("Makefile", "./Makefile"):
        model = Model("tiny", source)
        with pytest.raises(ModelLoadError, match=rf"^model source '{source}': {tmp_path}/Makefile is a file, not a"):
            model.definitions()
    made: dict[str, Any] = {"Model": Model}
    exec("llm = Model('tiny', './none')", made)  # no file says so
    with pytest.raises(
        ModelLoadError, match=r"'https://hub/a/b' is an address: give a hub id \(owner/name\) or a folder"
    ):
        _ = Model("x", "https://hub/a/b").source
    with pytest.raises(ModelLoadError, match=rf"^model source './none': {tmp_path}/none is no folder$"):
        made["llm"].definitions()


def test_a_folder_without_a_model_is_named_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelLoadError, match=r"/empty holds no model, it has no config.json"):
        Model("tiny", tmp_path / "empty").definitions()


def test_in_a_pod_the_source_is_where_the_bundle_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_model(tmp_path / "home" / "models" / "m")
    (tmp_path / "bundles" / "d1gest" / "models" / "m").mkdir(parents=True)  # where code lies beside the model
    unpacked = tmp_path / "bundles" / "d1gest" / "app.py"
    code = CodeRef("bundle", "app", "f", "d1gest", root=str(tmp_path / "home"))
    monkeypatch.setattr(_context, "bound_code", lambda: code)
    for source in ("models/m", str(unpacked.parent / "models" / "m")):
        made: dict[str, Any] = {"__file__": str(unpacked), "Model": Model, "source": source}
        exec("llm = Model('tiny', source)", made)
        assert made["llm"].source == str(tmp_path / "home" / "models" / "m")


def test_in_a_pod_a_source_is_the_folder_that_it_was_for_who_sent_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_model(tmp_path / "app" / "m")
    file = str(tmp_path / "app" / "r.py")

    def made(source: str) -> Model:
        names: dict[str, Any] = {"__file__": file, "Model": Model}
        exec(f"llm = Model('tiny', {source!r})", names)
        return names["llm"]  # type: ignore[no-any-return]

    monkeypatch.chdir(tmp_path)
    for source in ("app/m", "../nowhere", "Qwen/Qwen3-0.6B", str(tmp_path / "app" / "m")):
        made(source)
    sources = sources_named_under(str(tmp_path / "app"))
    assert sources == (("app/m", str(tmp_path / "app" / "m")),), "what would be the same from anywhere is not sent"
    assert sources_named_under(str(tmp_path / "ap")) == ()

    monkeypatch.chdir("/")
    file = str(tmp_path / "bundles" / "d1gest" / "r.py")
    code = CodeRef("bundle", "r", "f", "d1gest", root=str(tmp_path / "app"), sources=sources)
    monkeypatch.setattr(_context, "bound_code", lambda: code)
    assert made("app/m").source == str(tmp_path / "app" / "m")
    (tmp_path / "app" / "m").rename(tmp_path / "app" / "gone")
    with pytest.raises(ModelLoadError, match=rf"^model source 'app/m': {tmp_path}/app/m is no folder$"):
        made("app/m").definitions()  # and no hub is asked


def test_wrong_options_name_the_model_and_the_option(tmp_path: Path) -> None:
    for option in (
        {"dtype": "int3"},
        {"tensor_parallel": 0},
        {"max_pods": 0},
        {"min_pods": 9},
        {"max_model_len": 0},
        {"accelerator": "tpu"},
        {"scaledown_window": -1},
        {"quantization": 4},
    ):
        with pytest.raises(InvalidOption, match=f"Model 'tiny': {next(iter(option))}"):
            Model("tiny", tmp_path, **option)  # type: ignore[arg-type]


def test_generate_defines_both_pools_once(controller: Controller, llm: Model) -> None:
    controller.answers = [Generated("a time", "stop", 3, 2)] * 2
    assert llm.generate("Once upon", max_tokens=8, temperature=0.5, stop="\n") == "a time"
    llm.generate("Once upon")
    assert [d.spec.kind for d in controller.sent_of(DefineFunction)] == ["tokenizer", "model"]
    request = controller.sent_of(OpenRequest)[0]
    assert (request.function_id, request.kind, request.method) == (function_id(llm.spec), "call", "generate")
    assert request.value.format == "msgpack"
    params = controller.inputs[0].params
    assert (controller.inputs[0].prompt, params.max_tokens, params.stop) == ("Once upon", 8, ["\n"])


def test_chat_result(controller: Controller, llm: Model) -> None:
    @tool
    def add(a: int, b: int) -> int:
        return a + b

    made = Generated("Well.", "tool_calls", 3, 2, [ToolCall("c1", "add", {"a": 1, "b": 2})], ["{"], cached_tokens=1)
    controller.answers = [made]
    result = llm.chat("1 + 2?", tools=[add, {"type": "function", "function": {"name": "raw"}}], temperature=0)
    assert (result.text, result.output, result.finish_reason) == ("Well.", "Well.", "tool_calls")
    assert (result.usage.prompt_tokens, result.usage.completion_tokens, result.usage.total_tokens) == (3, 2, 5)
    assert result.usage.cached_tokens == 1
    call = result.tool_calls[0]
    assert add(**add.checked_arguments(call.arguments)) == 3
    assert result.message["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1, "b": 2}'}
    assert controller.inputs[0].messages == [{"role": "user", "content": "1 + 2?"}]
    assert [each["function"]["name"] for each in controller.inputs[0].tools] == ["add", "raw"]


def test_output_type(controller: Controller, llm: Model) -> None:
    controller.answers = [Generated('["a"]', "stop", 3, 2), Generated('["a', "length", 3, 2)]
    assert llm.chat("list", output_type=list[str]).output == ["a"]
    assert controller.inputs[0].params.json_schema == {"type": "array", "items": {"type": "string"}}
    with pytest.raises(OutputTruncated) as caught:
        llm.chat("list", output_type=list[str], max_tokens=2)
    assert caught.value.text == '["a'


def test_stream_and_its_credit(controller: Controller, llm: Model) -> None:
    controller.pieces = [f"{n} " for n in range(100)]
    controller.answers = [Generated("".join(controller.pieces), "stop", 3, 100)]
    assert "".join(llm.stream("count")) == "".join(controller.pieces)
    # The controller takes a grant for items taken: one for more than that, such as at the opening, would lose some.
    assert {grant.items for grant in controller.sent_of(GrantCredit)} <= {STREAM_ITEMS // 2}
    assert not controller.sent_of(CancelRequest)


def test_leaving_a_stream_early_cancels(controller: Controller, llm: Model) -> None:
    stream = llm.stream("count")
    request_id = controller.sent_of(OpenRequest)[0].request_id
    item = msgspec.msgpack.encode(GeneratedDelta("1"))
    controller.client.deliver(StreamItems(request_id, 0, (Value("msgpack", len(item)),)), item)
    for piece in stream:
        assert piece == "1"
        break
    stream.close()
    assert [message.request_id for message in controller.sent_of(CancelRequest)] == [request_id]
    never_read = llm.stream("count")
    del never_read
    assert len(controller.sent_of(CancelRequest)) == 2
    assert controller.client.inboxes.find(request_id) is None


def test_async_twins(controller: Controller, llm: Model) -> None:
    controller.pieces = ["a", "b"]
    controller.answers = [Generated("x", "stop", 1, 1), Generated("7", "stop", 1, 1), Generated("ab", "stop", 1, 2)]

    async def main() -> None:
        assert await llm.generate.aio("p") == "x"
        assert (await llm.chat.aio("p", output_type=int)).output == 7
        assert [piece async for piece in llm.stream.aio("p")] == ["a", "b"]
        waiting = asyncio.ensure_future(llm.chat.aio("never answered"))
        while len(controller.inputs) < 4:
            await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        for verb in (llm.chat, llm.generate, llm.stream):
            with pytest.raises(AsyncUsageError, match="llm..*aio"):
                verb("p")

    asyncio.run(main())
    assert len(controller.sent_of(CancelRequest)) == 1


def test_errors_arrive_as_their_own_types(controller: Controller, llm: Model) -> None:
    controller.answers = [PromptTooLongError("600 tokens, the context has 512")]
    with pytest.raises(PromptTooLongError, match="600 tokens"):
        llm.chat("long")
    controller.answers = [ModelLoadError("model.safetensors is truncated")]
    controller.outcome = "startup_failed"
    with pytest.raises(ModelLoadError, match="truncated"):
        llm.chat("hi")
    assert controller.client.inboxes.find(controller.sent_of(OpenRequest)[0].request_id) is None


def test_wrong_use_is_said_before_anything_is_sent(controller: Controller, llm: Model) -> None:
    for wrong in (
        {"max_tokens": 0},
        {"temperature": -1},
        {"top_p": 2},
        {"max_tokens": "many"},
        {"stop": [""]},
        {"max_token": 1},
        {"presence_penalty": 3},
        {"repetition_penalty": 0},
        {"logit_bias": {1: 200}},
        {"logit_bias": {-1: 1}},
        {"logit_bias": {"the": 1}},
        {"stop_token_ids": [-1]},
        {"stop_token_ids": [10**40]},
        {"stop_token_ids": 3},
        {"stop": 5},
        {"stop": [5]},
        {"bad_words": [""]},
        {"top_k": -5},
        {"top_p": 0},
        {"seed": 10**40},
        {"min_tokens": 50, "max_tokens": 5},
        {"min_tokens": 5, "output_type": int},
        {"n": 2, "temperature": 0},
        {"ignore_eos": 1},
        {"json_schema": {}},
        {"output_type": object},
        {"output_type": int, "tools": [len]},
    ):
        with pytest.raises(InvalidOption, match=None if "output_type" in wrong else next(iter(wrong))):
            llm.chat("hi", **wrong)  # type: ignore[call-overload]
    for messages in ([], [1], 3, [{"content": "x"}]):
        with pytest.raises(TypeError):
            llm.chat(messages)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        llm.generate([1])  # type: ignore[arg-type]
    with pytest.raises(SerializationError, match=r"llm.chat: messages\[1\].content holds the lone surrogate '.udce9'"):
        llm.chat([{"role": "system", "content": "a"}, {"role": "user", "content": "caf\udce9"}])
    with pytest.raises(SerializationError, match="llm.generate: prompt holds the lone surrogate"):
        llm.generate("\ud83d")
    for content in (object(), 10**40):
        with pytest.raises(SerializationError, match="plain data"):
            llm.chat([{"role": "user", "content": content}])
    for texts in (b"abc", [b"abc"], ["a", bytearray(b"abc")]):
        with pytest.raises(TypeError, match="llm.embed.*bytes are no text"):
            llm.embed(texts)  # type: ignore[arg-type]
    assert not controller.sent


def test_an_option_that_there_is_not_is_told_with_those_there_are(tmp_path: Path) -> None:
    words = (
        r"Model 'tiny': there is no option 'max_modellen' \(perhaps max_model_len\); there are accelerator, .*memory"
    )
    with pytest.raises(InvalidOption, match=words):
        Model("tiny", tmp_path, max_modellen=5)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="there is no option 'zz'; there are accelerator"):
        Model("tiny", tmp_path, zz=5)  # type: ignore[arg-type]


def test_pickles_with_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_model(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps(Model("tiny", "m", max_pods=3))
    monkeypatch.chdir("/")
    assert pickle.loads(data).spec.model.source == str(tmp_path / "m")
    assert pickle.loads(data).spec.scaling.max_pods == 3


def test_options_of_the_engine_are_checked_where_they_are_given(tmp_path: Path) -> None:
    for wrong in (
        {"dtype": "float16"},
        {"quantization": "int3"},
        {"quantization": 8},
        {"kv_cache_dtype": "fp8"},
        {"speculative_tokens": -1},
        {"speculative_tokens": 33},
        {"speculative_tokens": True},
        {"tensor_parallel": 0},
    ):
        with pytest.raises(InvalidOption, match=f"Model 'tiny': {next(iter(wrong))}="):
            Model("tiny", tmp_path, **wrong)  # type: ignore[arg-type]
    spec = Model("tiny", tmp_path, quantization="int8", kv_cache_dtype="int8", speculative_tokens=4).spec.model
    assert spec is not None
    assert (spec.quantization, spec.kv_cache_dtype, spec.speculative_tokens) == ("int8", "int8", 4)


def test_they_are_those_of_the_engine() -> None:
    config = pytest.importorskip("flowserve.config")
    assert (_model.DTYPES, _model.QUANTIZATIONS) == (config.DTYPES, config.QUANTIZATIONS)
    assert (_model.KV_CACHE_DTYPES, _model.MAX_SPECULATIVE_TOKENS) == (
        config.KV_CACHE_DTYPES,
        config.MAX_SPECULATIVE_TOKENS,
    )


def test_context_ids_are_texts_that_pickle() -> None:
    context = ContextId("ctx-1", 12)
    again = pickle.loads(pickle.dumps(context))
    assert (again, type(again), again.num_tokens) == ("ctx-1", ContextId, 12)


def test_all_answers_and_what_is_told_of_their_tokens(controller: Controller, llm: Model) -> None:
    told = [TokenLogprob("a", -0.1, b"a", [LikelyToken("b", -0.2, b"b")])]
    answer = Generated("a", "stop", 3, 1, logprobs=told, others=[Generated("b", "length", 3, 2, logprobs=told)])
    controller.answers = [answer] * 5
    chat = llm.chat("hi", n=2, logprobs=1)
    assert [each.text for each in chat.choices] == ["a", "b"] and chat.choices[0] is chat
    assert chat.usage.completion_tokens == 3 and chat.choices[1].finish_reason == "length"
    assert [each.logprobs for each in chat.choices] == [tuple(told)] * 2
    params = controller.inputs[0].params
    assert (params.n, params.logprobs) == (2, 1)
    assert llm.chat("hi").logprobs is None and type(llm.generate("hi")) is str
    texts = llm.generate("hi", n=2, logprobs=0)
    assert texts == "a" and texts.choices == ("a", "b") and texts.choices[1].logprobs == tuple(told)
    again = pickle.loads(pickle.dumps(texts))
    assert again.choices == texts.choices and again.usage == texts.usage and again.logprobs == texts.logprobs
    assert llm.generate("hi", n=2).logprobs is None


def test_an_answer_of_several_that_is_cut_off_is_told(controller: Controller, llm: Model) -> None:
    controller.answers = [Generated("[1]", "stop", 3, 1, others=[Generated("[1", "length", 3, 2)])] * 2
    with pytest.raises(OutputTruncated):
        llm.chat("hi", n=2, output_type=list[int])


@pytest.mark.parametrize(
    "options", [{"n": 0}, {"n": 129}, {"n": True}, {"logprobs": -1}, {"logprobs": True}, {"n": "2"}]
)
def test_answers_that_cannot_be_asked_for(llm: Model, options: Any) -> None:
    for verb in (llm.chat, llm.generate):
        with pytest.raises(InvalidOption, match=next(iter(options))):
            verb("hi", **options)
    with pytest.raises(InvalidOption, match="llm.stream: there is no option"):
        llm.stream("hi", **options)


def test_a_request_runs_as_long_as_its_model_is_told(controller: Controller, llm: Model) -> None:
    controller.answers = [Generated("yes", "stop", 3, 1)] * 4
    hurried = pickle.loads(pickle.dumps(llm.with_options(timeout=2.5)))
    for model in (llm, hurried, hurried.with_options(timeout=None)):
        assert model.chat("hi").text == "yes"
    assert "".join(hurried.stream("hi")) == ""
    assert [opened.timeout_s for opened in controller.sent_of(OpenRequest)] == [0.0, 2.5, 0.0, 2.5]
    assert hurried.definitions() == llm.definitions(), "its pods are the same ones"


def test_a_time_that_is_none_and_where_one_is_given_is_said(llm: Model) -> None:
    for timeout in (0, -1, "soon", True):
        with pytest.raises(InvalidOption, match="Model 'tiny': timeout="):
            llm.with_options(timeout=timeout)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match=r"with_options takes timeout=; memory= makes another Model"):
        llm.with_options(timeout=1, memory=512)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match=r"llm.chat: .*: llm.with_options\(timeout=\.\.\.\).chat"):
        llm.chat("hi", timeout=1)  # type: ignore[call-overload]
    with pytest.raises(InvalidOption, match=r"'timeout' \(llm.with_options\(timeout="):
        Model("tiny", source="x", timeout=1)  # type: ignore[arg-type]


def test_an_answer_that_no_model_says_is_named_where_it_is_scripted() -> None:
    scripts = Scripts()
    try:
        with pytest.raises(
            TypeError, match=r"RuntimeError\('busy'\) is nothing that a model says: an answer is a text"
        ):
            scripts.add(Model("x", "folder"), [RuntimeError("busy")])
    finally:
        scripts.close()
