"""Chats and prompts to token ids; needs tokenizers and jinja2, no torch."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

from deepserve.protocol.messages import PodMemory, Weights
from deepserve.protocol.model_io import (
    ChatInput,
    CompletionInput,
    ContextInput,
    GenerationParams,
    PromptContext,
    TokenizedPrompt,
)
from deepserve.protocol.openai_io import METHODS
from deepserve.protocol.specs import FunctionSpec
from deepserve_runtime import sdk
from deepserve_runtime.executors.flowserve_parts import (
    ApiError,
    FlowServeError,
    Prompt,
    PromptTooLongError,
    ServedModel,
    Tokenizer,
    chat_template,
    check_fits_context,
    max_model_len,
    resolve_model,
    template_messages,
)
from deepserve_runtime.executors.loaded_engine import loading
from deepserve_runtime.executors.model_options import check_options
from deepserve_runtime.executors.openai_prompts import OpenAIPrompter
from deepserve_runtime.executors.prompt_names import prompt_blocks
from deepserve_runtime.executors.values import convert, encode
from deepserve_runtime.step_clock import StepClock
from deepserve_runtime.task import Task
from deepserve_runtime.task_threads import TaskThread, TaskThreads

if TYPE_CHECKING:
    from deepserve_runtime.executors.flowserve_parts import ChatTemplate

MUCH_BYTES = 1 << 15
"""What is longer takes tens of milliseconds to encode, and megabytes take seconds."""


class TokenizerExecutor:
    """Answers one after the other on the main thread: a prompt takes less time than a hand-over between threads.

    Long ones take turns on a thread of their own (encoding lets others compute): no other prompt waits for them.
    """

    source = "file"
    source_reason = ""
    is_template_stale = False
    weights = Weights()
    memory = PodMemory()

    def __init__(self, spec: FunctionSpec, threads: TaskThreads) -> None:
        assert spec.model is not None
        self._spec = spec
        self.slots = spec.scaling.max_inputs
        self._model = spec.model
        self._threads = threads
        self._beside: TaskThread | None = None

    def load(self) -> dict[str, float]:
        """Raises ModelLoadError and InvalidModelOption: what is wrong with the model is told here first."""
        steps = StepClock()
        with loading(self._model):
            self._folder = resolve_model(self._model.source, with_weights=False)
            check_options(self._folder, self._spec)
            length = max_model_len(self._folder, self._model.max_model_len)
            self._served = ServedModel(self._folder, Tokenizer.from_folder(self._folder), (self._model.name,), length)
        steps.mark("load")
        return steps.steps_ms

    @cached_property
    def _template(self) -> ChatTemplate:
        """A model without one can still complete prompts."""
        return chat_template(self._folder)

    @cached_property
    def _openai(self) -> OpenAIPrompter:
        return OpenAIPrompter(self._served)

    def unload(self) -> None:
        pass

    def assign(self, task: Task) -> None:
        is_long = task.assignment.value.size_bytes > MUCH_BYTES
        inbox = self._thread_beside().inbox if is_long else self._threads.main.inbox
        inbox.put(lambda: self._answer(task))

    def _thread_beside(self) -> TaskThread:
        if self._beside is None:
            self._beside = TaskThread(self._threads)
            threading.Thread(target=self._beside.work, name="deepserve-long-prompts", daemon=True).start()
        return self._beside

    def _answer(self, task: Task) -> None:
        if task.cancel_reason:
            task.finish_cancelled()
            return
        if task.assignment.method in METHODS:
            self._openai.answer(task)
            return
        try:
            prompt = self._tokenize(task.assignment.method, task.start())
            check_fits_context(len(prompt.token_ids), self._served.max_model_len)
        except PromptTooLongError as error:
            task.fail(sdk.errors.PromptTooLongError(f"{self._model.name}: {error}"))
        except FlowServeError as error:
            task.fail(sdk.errors.ModelError(f"{self._model.name}: {error}"))
        except Exception as error:
            task.fail(error)
        else:
            task.prompt = prompt_blocks(prompt.token_ids)
            task.finish(*encode(prompt))

    def _tokenize(self, method: str, given: Any) -> TokenizedPrompt:
        if method == "chat":
            return self._chat(convert(given, ChatInput))
        if method == "cache":
            context = convert(given, ContextInput)
            token_ids = self._encode(self._render(self._checked(context.messages), context.tools, is_start=True))
            about = PromptContext(context.context_id, len(token_ids), context.ttl_s)
            return TokenizedPrompt(token_ids, GenerationParams(max_tokens=1), context=about)
        if method == "generate":
            completion = convert(given, CompletionInput)
            return TokenizedPrompt(self._encode(completion.prompt, add_special_tokens=True), completion.params)
        raise AttributeError(f"a tokenizer has the methods chat, cache and generate, not {method!r}")

    def _chat(self, chat: ChatInput) -> TokenizedPrompt:
        messages = self._checked(chat.messages)
        if chat.context is None:
            token_ids = self._encode(self._render(messages, chat.tools))
            return TokenizedPrompt(token_ids, chat.params, parse_tools=bool(chat.tools))
        start, tools = self._checked(chat.context.messages), chat.context.tools
        text, head = self._render([*start, *messages], tools), self._render(start, tools, is_start=True)
        if not text.startswith(head):  # the template tells the start otherwise now that it goes on
            return TokenizedPrompt(self._encode(text), chat.params, parse_tools=bool(tools))
        head_ids = self._encode(head)  # apart: as they were when the context was made
        about = PromptContext(chat.context.context_id, len(head_ids), chat.context.ttl_s)
        token_ids = head_ids + self._encode(text[len(head) :])
        return TokenizedPrompt(token_ids, chat.params, parse_tools=bool(tools), context=about)

    def _render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], is_start: bool = False) -> str:
        """is_start: what every prompt has in common that begins with these messages."""
        return self._template.render(messages, tools=tools or None, add_generation_prompt=not is_start)

    def _checked(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As the OpenAI API writes them, so that a chat's prompt is the same by either way and goes on behind the
        contexts of both. Raises ModelError that names the message."""
        try:
            return template_messages(messages)
        except ApiError as error:
            raise sdk.errors.ModelError(f"{self._model.name}: {error}") from None

    def _encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return self._served.encode(Prompt(text, add_special_tokens)).token_ids or []
