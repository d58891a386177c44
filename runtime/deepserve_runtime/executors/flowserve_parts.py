"""FlowServe as the runtime knows it; the only file of the runtime that imports it. Needs no torch but for an engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flowserve.answer import AnswerFormat
from flowserve.chat_template import ChatTemplate
from flowserve.config import DEVICES, EngineConfig
from flowserve.errors import FlowServeError, InvalidConfigError, PromptTooLongError, UnknownSequenceError
from flowserve.generation_config import read_sampling_defaults
from flowserve.hub import resolve_apart, resolve_model
from flowserve.models.encoder_config import is_embedding_model
from flowserve.outputs import SequenceOutput
from flowserve.sampling_params import SamplingParams, StructuredOutputsParams
from flowserve.tokenizer import Tokenizer
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
    from flowserve.embedding_model import EmbeddingModel
    from flowserve.engine import Engine
    from flowserve.engine_template import EngineTemplate

__all__ = [
    "DEVICES",
    "AnswerEvent",
    "AnswerFormat",
    "ArgumentsDelta",
    "CallEnd",
    "CallParser",
    "CallStart",
    "ChatTemplate",
    "EmbeddingModel",
    "EngineConfig",
    "FlowServeError",
    "InvalidConfigError",
    "MalformedCall",
    "PromptTooLongError",
    "SamplingParams",
    "SequenceOutput",
    "StructuredOutputsParams",
    "TextDelta",
    "Tokenizer",
    "UnknownSequenceError",
    "embedding_model_from_folder",
    "engine_template",
    "is_embedding_model",
    "make_parser",
    "read_sampling_defaults",
    "resolve_apart",
    "resolve_model",
    "take_first_step",
]


def engine_template(model: str, config: EngineConfig) -> EngineTemplate:
    """See EngineTemplate."""
    from flowserve.engine_template import EngineTemplate

    return EngineTemplate(model, config)


def take_first_step(engine: Engine) -> None:
    """See flowserve's."""
    from flowserve.engine_template import take_first_step

    take_first_step(engine)


def embedding_model_from_folder(folder: Path, *, dtype: str, max_length: int | None, device: str) -> EmbeddingModel:
    """See EmbeddingModel."""
    from flowserve.embedding_model import EmbeddingModel

    return EmbeddingModel(folder, dtype=dtype, max_length=max_length, device=device)
