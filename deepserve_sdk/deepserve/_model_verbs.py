"""What is asked of a hosted model: each verb blocks, and has a twin for event loops."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from deepserve._model_context import ContextId, checked_id, context_of, definitions_of
from deepserve._model_embedding import VERB as EMBED
from deepserve._model_embedding import embed_input
from deepserve._model_request import AsyncGenerationStream, GenerationStream, messages_of
from deepserve._model_result import ChatResult, GeneratedText, usage_of
from deepserve._model_sampling import Answers, Sampling, params_of
from deepserve._output import OutputType
from deepserve._query_verb import QueryVerb
from deepserve._stored_contexts import ContextInfo, delete_context, extend_context, list_contexts
from deepserve.errors import InvalidOption
from deepserve.protocol.model_io import ChatInput, CompletionInput, Generated, GenerationParams

if TYPE_CHECKING:
    from deepserve._model import Model

T = TypeVar("T")
Messages = str | Sequence[dict[str, Any]]
Texts = str | Sequence[str] | Sequence[Sequence[int]]
Tools = Sequence[Callable[..., Any] | dict[str, Any]]
CONTEXT_TTL_S = 600.0


class GenerateVerb:
    def __init__(self, model: Model) -> None:
        self._model = model

    @overload
    def __call__(self, prompt: str, **sampling: Unpack[Sampling]) -> str: ...
    @overload
    def __call__(
        self, prompt: str, *, n: int, logprobs: int | None = None, **sampling: Unpack[Sampling]
    ) -> GeneratedText: ...
    @overload
    def __call__(self, prompt: str, *, logprobs: int, **sampling: Unpack[Sampling]) -> GeneratedText: ...
    def __call__(self, prompt: str, **sampling: Any) -> str:
        return _text(self._model.requests.ask(_completion(prompt, sampling), "llm.generate"), sampling)

    @overload
    async def aio(self, prompt: str, **sampling: Unpack[Sampling]) -> str: ...
    @overload
    async def aio(
        self, prompt: str, *, n: int, logprobs: int | None = None, **sampling: Unpack[Sampling]
    ) -> GeneratedText: ...
    @overload
    async def aio(self, prompt: str, *, logprobs: int, **sampling: Unpack[Sampling]) -> GeneratedText: ...
    async def aio(self, prompt: str, **sampling: Any) -> str:
        return _text(await self._model.requests.ask_aio(_completion(prompt, sampling), "llm.generate"), sampling)


class ChatVerb:
    def __init__(self, model: Model) -> None:
        self._model = model

    @overload
    def __call__(
        self,
        messages: Messages,
        *,
        output_type: None = None,
        tools: Tools = (),
        context: str | None = None,
        **sampling: Unpack[Answers],
    ) -> ChatResult[str]: ...
    @overload
    def __call__(
        self, messages: Messages, *, output_type: type[T], context: str | None = None, **sampling: Unpack[Answers]
    ) -> ChatResult[T]: ...
    @overload
    def __call__(
        self, messages: Messages, *, output_type: Any, context: str | None = None, **sampling: Unpack[Answers]
    ) -> ChatResult[Any]: ...
    def __call__(
        self, messages: Messages, *, output_type: Any = None, tools: Any = (), context: Any = None, **sampling: Any
    ) -> Any:
        output, context_id = _output(output_type, tools), checked_id(context, "llm.chat", tools)
        value = _chat(messages, output, tools, sampling, "llm.chat")
        return _result(self._model.requests.ask(value, "llm.chat", context_id), output, value.params)

    @overload
    async def aio(
        self,
        messages: Messages,
        *,
        output_type: None = None,
        tools: Tools = (),
        context: str | None = None,
        **sampling: Unpack[Answers],
    ) -> ChatResult[str]: ...
    @overload
    async def aio(
        self, messages: Messages, *, output_type: type[T], context: str | None = None, **sampling: Unpack[Answers]
    ) -> ChatResult[T]: ...
    @overload
    async def aio(
        self, messages: Messages, *, output_type: Any, context: str | None = None, **sampling: Unpack[Answers]
    ) -> ChatResult[Any]: ...
    async def aio(
        self, messages: Messages, *, output_type: Any = None, tools: Any = (), context: Any = None, **sampling: Any
    ) -> Any:
        output, context_id = _output(output_type, tools), checked_id(context, "llm.chat", tools)
        value = _chat(messages, output, tools, sampling, "llm.chat")
        return _result(await self._model.requests.ask_aio(value, "llm.chat", context_id), output, value.params)


class StreamVerb:
    def __init__(self, model: Model) -> None:
        self._model = model

    def __call__(
        self, messages: Messages, *, context: str | None = None, **sampling: Unpack[Sampling]
    ) -> Generator[str, None, None]:
        context_id = checked_id(context, "llm.stream", ())
        value = _chat(messages, None, (), sampling, "llm.stream", Sampling)
        return _texts(self._model.requests.stream(value, "llm.stream", context_id))

    def aio(
        self, messages: Messages, *, context: str | None = None, **sampling: Unpack[Sampling]
    ) -> AsyncGenerator[str, None]:
        context_id = checked_id(context, "llm.stream", ())
        value = _chat(messages, None, (), sampling, "llm.stream", Sampling)
        return _texts_aio(self._model.requests.stream_aio(value, "llm.stream", context_id))


class EmbedVerb:
    def __init__(self, model: Model) -> None:
        self._model = model

    def __call__(self, texts: Texts, *, truncate: bool = False) -> list[list[float]]:
        self._model.refuse_script(EMBED)
        return self._model.to_pods.embed(embed_input(texts, truncate), EMBED).vectors

    async def aio(self, texts: Texts, *, truncate: bool = False) -> list[list[float]]:
        self._model.refuse_script(EMBED)
        return (await self._model.to_pods.embed_aio(embed_input(texts, truncate), EMBED)).vectors


class CacheVerb:
    """Makes contexts; `list`, `extend` and `delete` are for those that there are."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __call__(
        self, messages: Messages, *, ttl: float = CONTEXT_TTL_S, tools: Tools = (), context: str | None = None
    ) -> ContextId:
        value = context_of(messages, ttl, tools, context)
        return ContextId(value.context_id, self._model.requests.cache(value, "llm.cache").prompt_tokens)

    async def aio(
        self, messages: Messages, *, ttl: float = CONTEXT_TTL_S, tools: Tools = (), context: str | None = None
    ) -> ContextId:
        value = context_of(messages, ttl, tools, context)
        return ContextId(value.context_id, (await self._model.requests.cache_aio(value, "llm.cache")).prompt_tokens)

    @property
    def list(self) -> QueryVerb[[], list[ContextInfo]]:
        """`llm.cache.list()`: the model's contexts, the least recently used first; `await llm.cache.list.aio()`."""
        return QueryVerb("llm.cache.list", partial(list_contexts, self._model.spec.label))

    @property
    def extend(self) -> QueryVerb[[str, float], ContextInfo]:
        """`llm.cache.extend(context, ttl)`: as `ContextId.extend`, of an id that came as a text."""
        return QueryVerb("llm.cache.extend", extend_context)

    @property
    def delete(self) -> QueryVerb[[str], None]:
        """`llm.cache.delete(context)`: as `ContextId.delete`, of an id that came as a text."""
        return QueryVerb("llm.cache.delete", delete_context)


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


def _completion(prompt: str, sampling: Any) -> CompletionInput:
    if not isinstance(prompt, str):
        raise TypeError(f"llm.generate takes a text, not {type(prompt).__name__}; llm.chat takes messages")
    return CompletionInput(prompt, params_of("llm.generate", sampling))


def _chat(
    messages: Messages,
    output: OutputType[Any] | None,
    tools: Tools,
    sampling: Any,
    verb: str,
    known: type[Any] = Answers,
) -> ChatInput:
    params = params_of(verb, sampling, output.schema if output else None, known)
    return ChatInput(messages_of(messages), params, definitions_of(tools))


def _output(output_type: Any, tools: Tools) -> OutputType[Any] | None:
    if output_type is None or output_type is str:
        return None
    if tools:
        raise InvalidOption("llm.chat: an answer held to output_type cannot call tools; deepserve.Agent does both")
    return OutputType(output_type)


def _result(generated: Generated, output: OutputType[Any] | None, params: GenerationParams) -> ChatResult[Any]:
    usage = usage_of(generated)

    def one(answer: Generated, others: tuple[ChatResult[Any], ...] = ()) -> ChatResult[Any]:
        return ChatResult(
            text=answer.text,
            output=output.parse(answer.text, answer.finish_reason) if output else answer.text,
            finish_reason=answer.finish_reason,
            usage=usage,
            tool_calls=tuple(answer.tool_calls),
            malformed_calls=tuple(answer.malformed_calls),
            logprobs=tuple(answer.logprobs) if params.logprobs is not None else None,
            others=others,
        )

    return one(generated, tuple([one(answer) for answer in generated.others]))


def _text(generated: Generated, sampling: Any) -> str:
    """A plain one where nothing more was asked for."""
    has_logprobs = sampling.get("logprobs") is not None
    if sampling.get("n") is None and not has_logprobs:
        return generated.text
    usage = usage_of(generated)

    def one(answer: Generated, others: tuple[GeneratedText, ...] = ()) -> GeneratedText:
        logprobs = tuple(answer.logprobs) if has_logprobs else None
        return GeneratedText(answer.text, answer.finish_reason, usage, logprobs, others)

    return one(generated, tuple([one(answer) for answer in generated.others]))
