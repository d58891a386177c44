"""What clients may send, as OpenAI and vLLM spell it. Types are checked here, ranges by SamplingParams.

Fields that are not listed are ignored, as by vLLM: clients send `user`, `store` or `metadata` to any server. Whatever
need not be given may be null, as some clients send it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from ..generation_config import params_over
from ..sampling_params import SamplingParams, StructuredOutputsParams
from .api_error import invalid
from .not_done import NotDone

Prompts = str | list[str | int | list[int]]

_SPECIAL = "add_special_tokens"


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class StructuredOutputs(msgspec.Struct):
    """vLLM's extension: exactly one of these constrains the output."""

    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None

    def params(self) -> StructuredOutputsParams:
        return StructuredOutputsParams(self.json, self.regex, self.choice, self.grammar, self.json_object)


class ResponseFormat(msgspec.Struct):
    type: str
    json_schema: dict[str, Any] | None = None

    def params(self) -> StructuredOutputsParams | None:
        """Raises ApiError."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return StructuredOutputsParams(json_object=True)
        if self.type != "json_schema":
            text = f"response_format.type must be text, json_object or json_schema, got {self.type!r}"
            raise invalid(text, "response_format.type")
        schema = (self.json_schema or {}).get("schema")
        if not isinstance(schema, dict):
            place = "response_format.json_schema.schema"
            raise invalid(f"{place} must be a JSON schema", place)
        return StructuredOutputsParams(json=schema)


class SamplingFields(NotDone, kw_only=True):
    """Of completions and chats alike. None = not given: the model's own default, else SamplingParams'."""

    model: str | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    bad_words: list[str] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    response_format: ResponseFormat | None = None
    priority: int | None = None
    cache_salt: Annotated[str, msgspec.Meta(min_length=1)] | None = None

    @property
    def wants_usage_chunk(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage is True

    def constraint(self) -> StructuredOutputsParams | None:
        """Raises InvalidSamplingParamsError."""
        return self.structured_outputs.params() if self.structured_outputs is not None else None

    def format_params(self) -> StructuredOutputsParams | None:
        """Raises ApiError."""
        return self.response_format.params() if self.response_format is not None else None

    def sampling(self, defaults: dict[str, Any], **more: Any) -> SamplingParams:
        """Raises InvalidSamplingParamsError."""
        given = {name: value for name in _SAMPLING if (value := getattr(self, name)) is not None}
        return params_over(defaults, {**given, **more})


_SAMPLING = (
    "n",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "min_tokens",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "bad_words",
    "include_stop_str_in_output",
    "skip_special_tokens",
)


class CompletionRequest(SamplingFields, kw_only=True):
    prompt: Prompts
    max_tokens: int | None = None
    logprobs: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None
    prompt_embeds: Any = None
    add_special_tokens: bool | None = None

    def check_supported(self) -> None:
        """Raises ApiError for what would change the answer, and is not done here."""
        if self.suffix:
            raise invalid("suffix is not supported: the model completes at the end of a text only", "suffix")
        if self.best_of not in (None, 1 if self.n is None else self.n):
            raise invalid("best_of other than n is not supported", "best_of")
        if self.add_special_tokens is False:
            raise invalid("add_special_tokens: false is not supported: a prompt as token ids has none", _SPECIAL)
        self.check_done("prompt_embeds")


class NamedFunction(msgspec.Struct):
    name: str


class NamedTool(msgspec.Struct, tag_field="type", tag="function"):
    function: NamedFunction


class AllowedFunctions(msgspec.Struct):
    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class AllowedTools(msgspec.Struct, tag_field="type", tag="allowed_tools"):
    allowed_tools: AllowedFunctions


class ChatRequest(SamplingFields, kw_only=True):
    messages: list[dict[str, Any]]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | NamedTool | AllowedTools | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    functions: list[Any] | None = None
    function_call: Any = None
    continue_final_message: bool | None = None
    modalities: list[str] | None = None
    add_generation_prompt: bool | None = None
    add_special_tokens: bool | None = None
    chat_template: Any = None
    documents: Any = None
    echo: Any = None
    web_search_options: Any = None

    def check_supported(self) -> None:
        """Raises ApiError for what would change the answer, and is not done here."""
        if self.functions or self.function_call not in (None, "none"):
            old, new = ("functions", "tools") if self.functions else ("function_call", "tool_choice")
            raise invalid(f"{old} is not supported: its newer name is {new}", old)
        if other := next((each for each in self.modalities or () if each != "text"), None):
            raise invalid(f"modalities: {other!r} is not supported, this is a model for text", "modalities")
        check_no_continuation(self.continue_final_message)
        if self.add_generation_prompt is False:
            text = "add_generation_prompt: false is not supported: an answer begins a message"
            raise invalid(text, "add_generation_prompt")
        if self.web_search_options is not None:  # empty, it asks for a search with the usual options
            raise invalid("web_search_options is not supported: this server searches nothing", "web_search_options")
        self.check_done(_SPECIAL, "chat_template", "documents", "echo")


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """Either a prompt or messages."""

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    tokens: list[int]
    model: str | None = None


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    input: Prompts
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    truncate_prompt_tokens: int | None = None


def one_constraint(**found: StructuredOutputsParams | None) -> tuple[StructuredOutputsParams | None, str | None]:
    """What constrains an output, and the field that asks for it. Raises ApiError where two do."""
    given = {name: params for name, params in found.items() if params is not None}
    if len(given) > 1:
        raise invalid(f"{' and '.join(given)} contradict each other: one output cannot follow both", list(given)[1])
    return next(((params, name) for name, params in given.items()), (None, None))


def check_no_continuation(continue_final_message: bool | None) -> None:
    """Raises ApiError."""
    if continue_final_message:
        raise invalid("continue_final_message is not supported: an answer is a message", "continue_final_message")


def listed_prompts(given: Prompts, field: str, max_tokens: int | None = None) -> list[str | list[int]]:
    """One text, a list of texts, token ids or a list of those, as a list of prompts. Raises ApiError.

    max_tokens: of each; more are refused before anybody looks at them.
    """
    if isinstance(given, str):
        return [given]
    if not given:
        raise invalid(f"{field} is an empty list", field)
    if max_tokens is not None:
        for listed in [given] if isinstance(given[0], int) else given:
            if isinstance(listed, list):
                check_num_tokens(listed, field, max_tokens)
    ids = [item for item in given if isinstance(item, int)]
    if len(ids) == len(given):
        return [ids]
    texts_or_ids = [item for item in given if not isinstance(item, int)]
    if len(texts_or_ids) != len(given):
        raise invalid(f"{field} mixes token ids with prompts", field)
    return texts_or_ids


def check_num_tokens(token_ids: Sequence[Any], field: str, max_tokens: int) -> None:
    """Raises ApiError for more than a model takes."""
    if len(token_ids) > max_tokens:
        text = f"{field} of {len(token_ids)} tokens does not fit the context of {max_tokens} tokens"
        raise invalid(text, field, "context_length_exceeded")
