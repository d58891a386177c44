"""LLM: the blocking door to an engine, with vLLM's names and shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from itertools import count
from pathlib import Path
from threading import RLock
from typing import Any, Self

from .chat_template import ChatTemplate
from .config import EngineConfig
from .engine import Engine
from .engine_texts import BEHIND_ANSWERS, ONE_TOKEN, text_reader, unit_vector
from .errors import FlowServeError, InvalidConfigError, InvalidRequestError, UnknownSequenceError
from .hub import resolve_model
from .llm_input import (
    Message,
    Prompt,
    conversations_of,
    is_conversation,
    listed_prompts,
    listed_tools,
    params_for_each,
    single_prompt,
)
from .outputs import CompletionOutput, RequestOutput, SequenceOutput
from .sampling_params import SamplingParams


class LLM:
    """A model in this process.

    model: folder in Hugging Face layout, or a hub id. Further options are those of EngineConfig. Several threads may
    ask at once: their requests run together. Left by `close` or at the end of a `with` block.
    Raises InvalidConfigError naming the option, and what `Engine.from_folder` raises.
    """

    def __init__(
        self,
        model: str | Path,
        dtype: str = "auto",
        quantization: str | None = None,
        tensor_parallel_size: int = 1,
        max_model_len: int | None = None,
        **options: Any,
    ) -> None:
        _check_options(options)
        config = EngineConfig(dtype, quantization, tensor_parallel_size, max_model_len, **options)
        self._folder = resolve_model(model)
        self.engine = Engine.from_folder(self._folder, config)
        self._template: ChatTemplate | None = None
        self._lock = RLock()  # around whatever touches the engine: one step at a time, whose thread ever asks for it
        self._ids = count()
        self._inboxes: dict[str, list[SequenceOutput]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back memory and threads; what is asked afterwards raises EngineClosedError. May be called again."""
        with self._lock:
            self.engine.close()

    def generate(
        self,
        prompts: str | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Complete one prompt or many (text, or token ids), in order. One SamplingParams for all or one for each.

        Raises InvalidRequestError kinds before anything runs.
        """
        listed = listed_prompts(prompts)
        params = params_for_each(sampling_params, len(listed))
        encoded = [(self.engine.tokenizer.encode(p), p) if isinstance(p, str) else (list(p), None) for p in listed]
        return self._run([(ids, text, each) for (ids, text), each in zip(encoded, params, strict=True)])

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        tools: Sequence[dict[str, Any]] | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation (a list of messages) or several (a list of those).

        Raises InvalidRequestError that names a message without a role or content, before anything runs.
        """
        conversations = conversations_of(messages)
        params = params_for_each(sampling_params, len(conversations))
        texts = [self._render(conversation, tools) for conversation in conversations]
        encoded = [self.engine.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        return self._run(list(zip(encoded, texts, params, strict=True)))

    def stream(
        self,
        prompt: str | Sequence[int] | Sequence[Message],
        sampling_params: SamplingParams | None = None,
        tools: Sequence[dict[str, Any]] | None = None,
    ) -> Iterator[str]:
        """Pieces of the answer to a prompt (text, token ids) or a conversation (messages), as they come.

        Leaving the loop early stops the generation. Other requests may be made inside the loop.
        """
        request_id = str(next(self._ids))
        (params,) = params_for_each(sampling_params, 1)
        if params.n > 1:
            raise InvalidRequestError(f"a stream is one text: n must be 1, got {params.n}")
        self._add(request_id, self._prompt_ids(prompt, tools), params)
        try:
            finished = False
            while not finished:
                for output in self._outputs(request_id):
                    finished = output.finished
                    if output.text:
                        yield output.text
                    if output.error is not None:
                        raise (InvalidRequestError if output.is_request_fault else FlowServeError)(output.error)
        finally:
            self._end(request_id)

    def embed(self, texts: str | Sequence[Prompt], *, truncate: bool = False) -> list[list[float]]:
        """A vector of length 1 for each text (or its token ids): the model's state behind the last token.

        Computed as prompts are, with the weights that generate. truncate: cut texts that are too long instead of
        raising. Raises what `EmbeddingTexts.tokenize` raises, before anything runs.
        """
        with self._lock:
            self.engine.check_awake()
        prompts = text_reader(self.engine).tokenize(texts, truncate=truncate)
        request_ids: list[str] = []
        try:
            for prompt_ids in prompts:
                request_ids.append(str(next(self._ids)))
                self._add(request_ids[-1], prompt_ids, ONE_TOKEN, priority=BEHIND_ANSWERS, wants_hidden=True)
            return [self._state(request_id) for request_id in request_ids]
        finally:
            for request_id in request_ids:
                self._end(request_id)

    def sleep(self, level: int = 1) -> None:
        """Give back memory and threads until `wake_up`; see `Engine.sleep`. Raises EngineBusyError inside a stream."""
        with self._lock:
            self.engine.sleep(level)

    def wake_up(self) -> None:
        """See `Engine.wake`."""
        with self._lock:
            self.engine.wake()

    @property
    def is_sleeping(self) -> bool:
        return self.engine.is_sleeping

    def _prompt_ids(self, prompt: Any, tools: Sequence[dict[str, Any]] | None) -> list[int]:
        if is_conversation(prompt):
            (messages,) = conversations_of(prompt)
            return self.engine.tokenizer.encode(self._render(messages, tools), add_special_tokens=False)
        single = single_prompt(prompt)
        return self.engine.tokenizer.encode(single) if isinstance(single, str) else list(single)

    def _render(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None) -> str:
        if self._template is None:
            self._template = ChatTemplate.from_folder(self._folder)
        return self._template.render(list(messages), tools=listed_tools(tools))

    def _run(self, requests: list[tuple[list[int], str | None, SamplingParams]]) -> list[RequestOutput]:
        outputs: dict[str, RequestOutput] = {}
        try:
            for prompt_ids, text, params in requests:
                request_id = str(next(self._ids))
                self._add(request_id, prompt_ids, params)
                outputs[request_id] = RequestOutput(
                    request_id,
                    text,
                    prompt_ids,
                    [
                        CompletionOutput(index, logprobs=None if params.logprobs is None else [])
                        for index in range(params.n)
                    ],
                )
            for request_id, output in outputs.items():
                while not output.finished:
                    for step_output in self._outputs(request_id):
                        _extend(output, step_output)
        finally:
            for request_id in outputs:
                self._end(request_id)
        return list(outputs.values())

    # --- one engine for several requests: each step's outputs wait for their reader ---------------------

    def _add(self, request_id: str, prompt_ids: list[int], params: SamplingParams | None, **options: Any) -> None:
        with self._lock:
            self.engine.add(request_id, prompt_ids, params, **options)
            self._inboxes[request_id] = []

    def _outputs(self, request_id: str) -> list[SequenceOutput]:
        """What came for the request since the last call, after a step where nothing did."""
        with self._lock:
            if not self._inboxes[request_id]:
                for output in self.engine.step():
                    if (inbox := self._inboxes.get(output.sequence_id)) is not None:
                        inbox.append(output)
            outputs, self._inboxes[request_id] = self._inboxes[request_id], []
            return outputs

    def _state(self, request_id: str) -> list[float]:
        """The vector of a text, once it is computed."""
        while True:
            for output in self._outputs(request_id):
                if output.hidden is None or output.error is not None:
                    raise FlowServeError(output.error or f"the engine ended a text: {output.finish_reason}")
                return unit_vector(output.hidden)

    def _end(self, request_id: str) -> None:
        with self._lock:
            self._inboxes.pop(request_id, None)
            with suppress(UnknownSequenceError):  # it has ended in the engine already
                self.engine.abort(request_id)


def _extend(request: RequestOutput, step: SequenceOutput) -> None:
    completion = request.outputs[step.index]
    completion.text += step.text
    completion.token_ids.extend(step.token_ids)
    if completion.logprobs is not None and step.logprobs:
        completion.logprobs.extend(step.logprobs)
    completion.finish_reason = step.finish_reason
    completion.error = step.error
    if step.prompt_logprobs is not None:
        request.prompt_logprobs = [None, *step.prompt_logprobs]
    if step.index == 0:
        request.num_cached_tokens = step.num_cached_tokens
    request.finished = all(each.finish_reason is not None for each in request.outputs)


def _check_options(options: dict[str, Any]) -> None:
    known = [field.name for field in fields(EngineConfig)]
    for name in options:
        if name not in known:
            raise InvalidConfigError(f"there is no option {name!r}; the options are: {', '.join(known)}")
