"""FlowServe as the runtime knows it; the only file of the runtime that imports it. Needs no torch but for an engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowserve.answer import AnswerFormat
from flowserve.config import DEVICES, EngineConfig
from flowserve.embedding_queue import EmbeddingOutcome, EmbeddingQueue
from flowserve.errors import (
    CheckpointChangedError,
    FlowServeError,
    InvalidConfigError,
    InvalidGrammarError,
    PromptTooLongError,
    UnknownSequenceError,
)
from flowserve.generation_config import params_over, read_sampling_defaults
from flowserve.hub import bytes_to_fetch, known_folder, local_folder, resolve_apart, resolve_model
from flowserve.memory import host_bytes, resident_bytes
from flowserve.model_check import LeastMemory, check_model
from flowserve.models.checkpoint import has_all_weights
from flowserve.models.encoder_config import is_embedding_model
from flowserve.outputs import SequenceOutput, TokenLogprobs
from flowserve.rtc.index import block_hashes
from flowserve.rtc.moves import Tier
from flowserve.sampling_params import SamplingParams, StructuredOutputsParams
from flowserve.server.answering import Answer
from flowserve.server.api_error import ApiError, RequestFields, as_api_error
from flowserve.server.body import decode_body
from flowserve.server.chat import Chat
from flowserve.server.chat_messages import template_messages
from flowserve.server.completions import Completion
from flowserve.server.embedding_answer import EmbeddingAnswer
from flowserve.server.outbox import Outbox
from flowserve.server.prompts import Prompt, SequenceRequest
from flowserve.server.requests import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    TokenizeRequest,
)
from flowserve.server.response_request import ResponseRequest
from flowserve.server.responses import ModelResponse
from flowserve.server.served_model import ServedModel
from flowserve.server.token_answers import detokenized, prompt_to_tokenize, tokenized
from flowserve.server.token_text import TokenText
from flowserve.template_sources import template_text
from flowserve.tokenizer import Tokenizer, check_fits_context
from flowserve.tool_calls import (
    AnswerEvent,
    ArgumentsDelta,
    CallEnd,
    CallParser,
    CallStart,
    MalformedCall,
    TextDelta,
    make_parser,
)

if TYPE_CHECKING:
    from flowserve.chat_template import ChatTemplate
    from flowserve.embedding_model import EmbeddingModel
    from flowserve.engine import Engine as Engine
    from flowserve.engine_template import EngineTemplate
    from flowserve.engine_texts import EngineTexts as EngineTexts

__all__ = [
    "DEVICES",
    "Answer",
    "AnswerEvent",
    "AnswerFormat",
    "ApiError",
    "ArgumentsDelta",
    "CallEnd",
    "CallParser",
    "CallStart",
    "Chat",
    "ChatRequest",
    "ChatTemplate",
    "CheckpointChangedError",
    "Completion",
    "CompletionRequest",
    "DetokenizeRequest",
    "EmbeddingAnswer",
    "EmbeddingModel",
    "EmbeddingOutcome",
    "EmbeddingQueue",
    "EmbeddingRequest",
    "EngineConfig",
    "FlowServeError",
    "InvalidConfigError",
    "InvalidGrammarError",
    "LeastMemory",
    "MalformedCall",
    "ModelResponse",
    "Outbox",
    "Prompt",
    "PromptTooLongError",
    "RequestFields",
    "ResponseRequest",
    "SamplingParams",
    "SequenceOutput",
    "SequenceRequest",
    "ServedModel",
    "StructuredOutputsParams",
    "TextDelta",
    "Tier",
    "TokenText",
    "TokenizeRequest",
    "TokenLogprobs",
    "Tokenizer",
    "UnknownSequenceError",
    "as_api_error",
    "block_hashes",
    "check_fits_context",
    "bytes_to_fetch",
    "chat_template",
    "check_model",
    "decode_body",
    "detokenized",
    "embedding_model_from_folder",
    "engine_template",
    "engine_texts",
    "has_all_weights",
    "host_bytes",
    "is_embedding_model",
    "known_folder",
    "local_folder",
    "make_parser",
    "max_model_len",
    "params_over",
    "prompt_to_tokenize",
    "read_sampling_defaults",
    "resident_bytes",
    "resolve_apart",
    "resolve_model",
    "take_first_step",
    "template_messages",
    "template_text",
    "tokenized",
]


def chat_template(folder: Path) -> ChatTemplate:
    """See ChatTemplate. Of all parts these alone need jinja2, and engines have no use for them."""
    from flowserve.chat_template import ChatTemplate

    return ChatTemplate.from_folder(folder)


def engine_template(model: str, config: EngineConfig) -> EngineTemplate:
    """See EngineTemplate."""
    from flowserve.engine_template import EngineTemplate

    return EngineTemplate(model, config)


def take_first_step(engine: Engine) -> None:
    """See flowserve's."""
    from flowserve.engine_template import take_first_step

    take_first_step(engine)


def engine_texts(engine: Engine) -> EngineTexts[Any]:
    """See EngineTexts."""
    from flowserve.engine_texts import EngineTexts

    return EngineTexts(engine)


def embedding_model_from_folder(
    folder: Path, *, dtype: str, quantization: str | None, max_length: int | None, device: str
) -> EmbeddingModel:
    """See EmbeddingModel."""
    from flowserve.embedding_model import EmbeddingModel

    return EmbeddingModel(folder, dtype=dtype, quantization=quantization, max_length=max_length, device=device)


def max_model_len(folder: Path, asked: int | None) -> int:
    """Tokens that an engine of this folder takes. Raises FlowServeError."""
    from flowserve.models.config import read_model_config
    from flowserve.models.folder_plan import context_length

    return context_length(asked, read_model_config(folder).max_positions)
