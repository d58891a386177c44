"""A language model hosted on FlowServe pods, as users hold it."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from functools import cached_property
from typing import Any, TypeVar, Unpack, overload

from deepserve._definition import Definition
from deepserve._model_client import ClientRequests
from deepserve._model_request import AsyncGenerationStream, GenerationStream, ModelRequests, messages_of
from deepserve._model_result import ChatResult, Usage
from deepserve._model_sampling import Sampling, params_of
from deepserve._model_source import ModelSource
from deepserve._options import Options, merge_options
from deepserve._output import OutputType
from deepserve._tool import as_tool
from deepserve.errors import InvalidOption, ModelLoadError
from deepserve.protocol.model_io import ChatInput, CompletionInput, Generated
from deepserve.protocol.specs import CodeRef, FunctionSpec, ModelSpec, Scaling, function_id
from deepserve.settings import current_settings

T = TypeVar("T")
Messages = str | Sequence[dict[str, Any]]
Tools = Sequence[Callable[..., Any] | dict[str, Any]]

MODEL_APP = "models"
REQUEST_TIMEOUT_S = 3600.0
STARTUP_TIMEOUT_S = 600.0
_BUILT_IN = CodeRef("builtin", "", "")
_DTYPES = ("auto", "float32", "bfloat16", "float16")


class Model:
    """A hosted language model.

        llm = deepserve.Model("qwen3-0.6b", source="Qwen/Qwen3-0.6B")
        llm.chat("hi").text

    Constructing it starts nothing; the first request loads it in a pod, and further pods are added up to max_pods
    while requests queue. Usable in scripts and in pods, where its requests are children of the caller's request.

    name: for people. source: a hub id, or a folder in Hugging Face layout (config.json, safetensors, tokenizer.json),
    relative to the current folder or else to the file that constructs the Model. accelerator: kinds in order of
    preference, each `kind[:model][:count]`. tensor_parallel: devices that share one copy. dtype: of the weights,
    `auto` as they are stored. max_model_len: tokens of context, at most the model's own. min_pods, max_pods: how many
    pods; scaledown_window: seconds without a request after which a pod is given up.

    Raises InvalidOption. Every request raises ModelLoadError where the model cannot be loaded (missing, truncated, of
    an unknown architecture), PromptTooLongError, and the errors of any remote call.
    (Names after Modal's functions and vLLM's engine arguments.)
    """

    def __init__(
        self,
        name: str,
        source: str | os.PathLike[str],
        *,
        accelerator: str | Sequence[str] = ("npu", "gpu", "cpu"),
        tensor_parallel: int = 1,
        dtype: str = "auto",
        quantization: str | None = None,
        min_pods: int = 0,
        max_pods: int = 8,
        scaledown_window: float = 300,
        max_model_len: int | None = None,
    ) -> None:
        if not isinstance(source, str | os.PathLike) or not os.fspath(source):
            raise InvalidOption(f"Model {name!r}: source={source!r} is neither a folder nor a hub id")
        given = {
            "name": name,
            "accelerator": accelerator,
            "min_pods": min_pods,
            "max_pods": max_pods,
            "scaledown_window": scaledown_window,
        }
        self.name = name
        self._options = merge_options(Options(), f"Model {name!r}", given)
        self._check("tensor_parallel", tensor_parallel, isinstance(tensor_parallel, int) and tensor_parallel >= 1)
        is_length = max_model_len is None or (isinstance(max_model_len, int) and max_model_len >= 1)
        self._check("max_model_len", max_model_len, is_length)
        self._check("dtype", dtype, dtype in _DTYPES)
        self._check("quantization", quantization, quantization is None or isinstance(quantization, str))
        file = sys._getframe(1).f_globals.get("__file__") or ""
        self._source = ModelSource(os.fspath(source), os.path.abspath(file) if file else "", os.getcwd())
        self._engine = ModelSpec(name, "", dtype, quantization, tensor_parallel, max_model_len)

    def __repr__(self) -> str:
        return f"<deepserve.Model {self.name}>"

    def __getstate__(self) -> dict[str, Any]:
        state = {"name": self.name, "_options": self._options, "_engine": self._engine, "_source": self._source}
        try:
            state["source"] = self.source  # elsewhere the current folder is another one
        except ModelLoadError:  # said where the model is used
            pass
        return state

    @cached_property
    def source(self) -> str:
        """The absolute folder, or the hub id. Raises ModelLoadError where there is no such folder."""
        return self._source.resolve()

    @cached_property
    def spec(self) -> FunctionSpec:
        """What the model's pods are bound to. Raises ModelLoadError."""
        return FunctionSpec(
            app=MODEL_APP,
            name=self.name,
            kind="model",
            code=_BUILT_IN,
            environment="flowserve",
            resources=self._options.resources,
            scaling=self._options.scaling,
            timeout_s=REQUEST_TIMEOUT_S,
            startup_timeout_s=STARTUP_TIMEOUT_S,
            model=self._with_source(self._engine),
            tokenizer=function_id(self.tokenizer_spec),
        )

    @cached_property
    def tokenizer_spec(self) -> FunctionSpec:
        """The pool that writes the model's prompts and counts their tokens; it scales by itself."""
        return FunctionSpec(
            app=MODEL_APP,
            name=f"{self.name}.tokenizer",
            kind="tokenizer",
            code=_BUILT_IN,
            environment="tokenizer",
            scaling=Scaling(
                min_pods=min(1, self._options.scaling.min_pods),
                scaledown_window_s=self._options.scaling.scaledown_window_s,
            ),
            timeout_s=REQUEST_TIMEOUT_S,
            startup_timeout_s=STARTUP_TIMEOUT_S,
            model=self._with_source(ModelSpec(self.name, "", max_model_len=self._engine.max_model_len)),
        )

    @property
    def requests(self) -> ModelRequests:
        """How requests reach the model; what agents use."""
        if scripts := current_settings().scripted_models:
            from deepserve._scripted_requests import ScriptedRequests

            return ScriptedRequests(scripts, self.name, lambda: self._to_pods)
        return self._to_pods

    @cached_property
    def _to_pods(self) -> ModelRequests:
        return ClientRequests(_definition(self.spec), _definition(self.tokenizer_spec))

    @property
    def generate(self) -> GenerateVerb:
        """`llm.generate(prompt, max_tokens=..., temperature=..., ...) -> str`: the text that follows `prompt` as it is.

        `await llm.generate.aio(...)` on an event loop. Options: see `Sampling`.
        """
        return GenerateVerb(self)

    @property
    def chat(self) -> ChatVerb:
        """`llm.chat(messages | text, output_type=..., tools=[...], max_tokens=...) -> ChatResult`.

        messages: in OpenAI's shape; text is one user message. output_type: the answer is held to this type's JSON
        schema while it is generated and `.output` is a value of it (nothing is added to the prompt); one that ends at
        max_tokens raises OutputTruncated. tools: tools, functions or OpenAI's dicts; `.tool_calls` says what the model
        wants called, and `deepserve.tool` objects are callable: `add(**add.checked_arguments(call.arguments))`.
        `deepserve.Agent` does that in a loop. `await llm.chat.aio(...)` on an event loop. Options: see `Sampling`.
        """
        return ChatVerb(self)

    @property
    def stream(self) -> StreamVerb:
        """`for piece in llm.stream(messages | text, max_tokens=...)`: the answer's text as it is generated.

        Leaving the loop early cancels the request. `async for piece in llm.stream.aio(...)` on an event loop.
        """
        return StreamVerb(self)

    def _check(self, option: str, value: Any, is_valid: bool) -> None:
        if not is_valid or isinstance(value, bool):
            choices = f" (one of {', '.join(_DTYPES)})" if option == "dtype" else ""
            raise InvalidOption(f"Model {self.name!r}: {option}={value!r} is not valid{choices}")

    def _with_source(self, model: ModelSpec) -> ModelSpec:
        import msgspec

        return msgspec.structs.replace(model, source=self.source)


class GenerateVerb:
    def __init__(self, model: Model) -> None:
        self._model = model

    def __call__(self, prompt: str, **sampling: Unpack[Sampling]) -> str:
        return self._model.requests.ask(_completion(prompt, sampling), "llm.generate").text

    async def aio(self, prompt: str, **sampling: Unpack[Sampling]) -> str:
        return (await self._model.requests.ask_aio(_completion(prompt, sampling), "llm.generate")).text


class ChatVerb:
    def __init__(self, model: Model) -> None:
        self._model = model

    @overload
    def __call__(
        self, messages: Messages, *, output_type: None = None, tools: Tools = (), **sampling: Unpack[Sampling]
    ) -> ChatResult[str]: ...
    @overload
    def __call__(self, messages: Messages, *, output_type: type[T], **sampling: Unpack[Sampling]) -> ChatResult[T]: ...
    @overload
    def __call__(self, messages: Messages, *, output_type: Any, **sampling: Unpack[Sampling]) -> ChatResult[Any]: ...
    def __call__(self, messages: Messages, *, output_type: Any = None, tools: Any = (), **sampling: Any) -> Any:
        output = _output(output_type, tools)
        value = _chat(messages, output, tools, sampling, "llm.chat")
        return _result(self._model.requests.ask(value, "llm.chat"), output)

    @overload
    async def aio(
        self, messages: Messages, *, output_type: None = None, tools: Tools = (), **sampling: Unpack[Sampling]
    ) -> ChatResult[str]: ...
    @overload
    async def aio(self, messages: Messages, *, output_type: type[T], **sampling: Unpack[Sampling]) -> ChatResult[T]: ...
    @overload
    async def aio(self, messages: Messages, *, output_type: Any, **sampling: Unpack[Sampling]) -> ChatResult[Any]: ...
    async def aio(self, messages: Messages, *, output_type: Any = None, tools: Any = (), **sampling: Any) -> Any:
        output = _output(output_type, tools)
        value = _chat(messages, output, tools, sampling, "llm.chat")
        return _result(await self._model.requests.ask_aio(value, "llm.chat"), output)


class StreamVerb:
    def __init__(self, model: Model) -> None:
        self._model = model

    def __call__(self, messages: Messages, **sampling: Unpack[Sampling]) -> Generator[str, None, None]:
        value = _chat(messages, None, (), sampling, "llm.stream")
        return _texts(self._model.requests.stream(value, "llm.stream"))

    def aio(self, messages: Messages, **sampling: Unpack[Sampling]) -> AsyncGenerator[str, None]:
        value = _chat(messages, None, (), sampling, "llm.stream")
        return _texts_aio(self._model.requests.stream_aio(value, "llm.stream"))


def _texts(deltas: GenerationStream) -> Generator[str, None, None]:
    try:
        for delta in deltas:
            if delta.text:
                yield delta.text
    finally:
        deltas.close()


async def _texts_aio(deltas: AsyncGenerationStream) -> AsyncGenerator[str, None]:
    try:
        async for delta in deltas:
            if delta.text:
                yield delta.text
    finally:
        await deltas.aclose()


def _definition(spec: FunctionSpec) -> Definition:
    return Definition(function_id(spec), spec, None, spec.label)


def _completion(prompt: str, sampling: Any) -> CompletionInput:
    if not isinstance(prompt, str):
        raise TypeError(f"llm.generate takes a text, not {type(prompt).__name__}; llm.chat takes messages")
    return CompletionInput(prompt, params_of("llm.generate", sampling))


def _chat(messages: Messages, output: OutputType[Any] | None, tools: Tools, sampling: Any, verb: str) -> ChatInput:
    params = params_of(verb, sampling, output.schema if output else None)
    offered = [tool if isinstance(tool, dict) else as_tool(tool).definition for tool in tools]
    return ChatInput(messages_of(messages), params, offered)


def _output(output_type: Any, tools: Tools) -> OutputType[Any] | None:
    if output_type is None or output_type is str:
        return None
    if tools:
        raise InvalidOption("llm.chat: an answer held to output_type cannot call tools; deepserve.Agent does both")
    return OutputType(output_type)


def _result(generated: Generated, output: OutputType[Any] | None) -> ChatResult[Any]:
    value = output.parse(generated.text, generated.finish_reason) if output else generated.text
    return ChatResult(
        text=generated.text,
        output=value,
        finish_reason=generated.finish_reason,
        usage=Usage(generated.prompt_tokens, generated.completion_tokens),
        tool_calls=tuple(generated.tool_calls),
        malformed_calls=tuple(generated.malformed_calls),
    )
