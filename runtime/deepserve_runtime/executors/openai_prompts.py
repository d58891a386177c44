"""The tokenizer pod's half of the OpenAI API: bodies are checked, written as prompts and encoded; needs no torch."""

from __future__ import annotations

import traceback

from deepserve.protocol.model_io import ContextInput, PromptContext
from deepserve.protocol.openai_io import EncodedPrompt, OpenAIError, OpenAIPrompts, OpenAIRequest, OpenAIUsage
from deepserve_runtime import sdk
from deepserve_runtime.error_outcome import describe
from deepserve_runtime.executors.flowserve_parts import (
    Answer,
    ApiError,
    Chat,
    ChatRequest,
    Completion,
    CompletionRequest,
    DetokenizeRequest,
    ModelResponse,
    Prompt,
    RequestFields,
    ResponseRequest,
    ServedModel,
    TokenizeRequest,
    as_api_error,
    check_fits_context,
    decode_body,
    detokenized,
    prompt_to_tokenize,
    tokenized,
)
from deepserve_runtime.executors.openai_contexts import continued
from deepserve_runtime.executors.prompt_names import prompt_blocks
from deepserve_runtime.executors.values import convert, encode
from deepserve_runtime.task import Task

MAX_COMPLETIONS = 1024
"""Of one request: its prompts times `n`. All of them are in the engine at a time, before whoever comes after it."""


class OpenAIPrompter:
    """Answers tasks of the methods in `openai_io`, whole, on the thread that calls it."""

    def __init__(self, model: ServedModel) -> None:
        self._model = model

    def answer(self, task: Task) -> None:
        fields = RequestFields()
        try:
            request = convert(task.start(), OpenAIRequest)
            match task.assignment.method:
                case "openai.tokenize":
                    finish_whole(task, self._tokenize(request.body))
                case "openai.detokenize":
                    finish_whole(task, self._detokenize(request.body))
                case method:
                    fields = make_answer(method, request.body, self._model).fields
                    task.finish(*encode(self._prompts(task, request)))
        except Exception as error:
            fail(task, error, fields)

    def _prompts(self, task: Task, request: OpenAIRequest) -> OpenAIPrompts:
        method, body, about = task.assignment.method, request.body, None
        if request.context is None:
            answer = make_answer(method, body, self._model)
            unread = answer.prompts()
            check_number(len(unread), "prompt")
            prompts = [self._model.encode(prompt) for prompt in unread]
        else:
            body, start = continued(body, request.context)
            answer = make_answer(method, body, self._model)
            [whole], [head] = answer.prompts(), make_answer(method, start, self._model).prompts()
            prompt, about = self._behind_context(whole, head, request.context)
            prompts = [prompt]
        sequences = answer.sequences(prompts)  # what the engine would refuse is refused before one is started for it
        check_number(sum(sequence.params.n for sequence in sequences), "n")
        for sequence in sequences:
            check_fits_context(len(sequence.prompt_ids), self._model.max_model_len)
        num_tokens = sum(len(sequence.prompt_ids) for sequence in sequences)
        task.prompt = prompt_blocks(sequences[0].prompt_ids, sequences[0].cache_salt, num_tokens)
        encoded = [EncodedPrompt(prompt.text, prompt.token_ids or []) for prompt in prompts]
        return OpenAIPrompts(body, encoded, about, request.turn)

    def _behind_context(
        self, whole: Prompt, head: Prompt, context: ContextInput
    ) -> tuple[Prompt, PromptContext | None]:
        """The context's part is encoded apart, as it was when the context was made."""
        if not whole.text.startswith(head.text):  # the template tells the start otherwise now that it goes on
            return self._model.encode(whole), None
        rest = Prompt(whole.text[len(head.text) :], add_special_tokens=False)
        head_ids, rest_ids = (self._model.encode(each).token_ids or [] for each in (head, rest))
        return Prompt(whole.text, False, head_ids + rest_ids), PromptContext(
            context.context_id, len(head_ids), context.ttl_s
        )

    def _tokenize(self, body: bytes) -> bytes:
        asked = decode_body(body, TokenizeRequest)
        prompt = self._model.encode(prompt_to_tokenize(asked, self._model), is_bounded=False)
        with_texts = bool(asked.return_token_strs)
        return tokenized(self._model.tokenizer, prompt.token_ids or [], self._model.max_model_len, with_texts)

    def _detokenize(self, body: bytes) -> bytes:
        asked = decode_body(body, DetokenizeRequest)
        self._model.check_name(asked.model)
        return detokenized(self._model.tokenizer, asked.tokens, self._model.max_model_len)


def make_answer(method: str, body: bytes, model: ServedModel) -> Answer:
    """Raises ApiError."""
    if method == "openai.chat":
        return Chat(decode_body(body, ChatRequest), model)
    if method == "openai.completions":
        return Completion(decode_body(body, CompletionRequest), model)
    if method == "openai.responses":
        return ModelResponse(decode_body(body, ResponseRequest), model)
    raise AttributeError(f"a model does not know the method {method!r}")


def check_number(num_completions: int, param: str) -> None:
    """Raises ApiError."""
    if num_completions > MAX_COMPLETIONS:
        text = f"{num_completions} completions are more than the {MAX_COMPLETIONS} that a request may ask for"
        raise ApiError(400, text, param=param)


def emit(task: Task, written: bytes, journal: bytes = b"") -> None:
    """One item of bytes for the client, for which there is credit."""
    task.emit(*encode(written), journal)


def finish_whole(task: Task, body: bytes, usage: OpenAIUsage = OpenAIUsage()) -> None:  # noqa: B008  (frozen)
    emit(task, body)
    task.finish(*encode(usage))


def fail(task: Task, error: Exception, fields: RequestFields) -> None:
    """The task ends by what the client gets instead of an answer."""
    if isinstance(error, sdk.errors.InputCancelled):
        task.finish_cancelled()
        return
    answer = as_api_error(error, fields)
    if answer.status >= 500:
        traceback.print_exception(error)
    task.fail_with(describe(error), *encode(OpenAIError(answer.status, answer.body(), answer.headers)))
