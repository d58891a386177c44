"""TaskReader: what a task asks of an engine: the sequences to generate, and what their tokens are told as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from deepserve.protocol.model_io import GenerationParams, TokenizedPrompt
from deepserve.protocol.openai_io import GENERATION_METHODS
from deepserve.protocol.specs import ModelSpec
from deepserve_runtime.executors.completion import GrowingCompletion
from deepserve_runtime.executors.flowserve_parts import (
    AnswerFormat,
    SamplingParams,
    SequenceRequest,
    ServedModel,
    StructuredOutputsParams,
    make_parser,
    params_over,
    template_text,
)
from deepserve_runtime.executors.generation import Generation
from deepserve_runtime.executors.journal import Journal
from deepserve_runtime.executors.openai_generation import OpenAIGeneration
from deepserve_runtime.executors.started_engine import StartedEngine
from deepserve_runtime.executors.values import convert
from deepserve_runtime.executors.whole_calls import WholeCalls
from deepserve_runtime.task import Task

AnyGeneration = Generation | OpenAIGeneration


class TaskReader:
    """Of one model. Nothing of what is read is in the engine yet."""

    def __init__(self, model: ModelSpec, started: StartedEngine) -> None:
        self._model = model
        self._folder = started.folder
        self._defaults = started.defaults
        self._engine = started.engine

    def read(self, task: Task) -> tuple[AnyGeneration, Sequence[SequenceRequest]]:
        """Raises what is wrong with the request."""
        given = task.start()
        if task.assignment.method in GENERATION_METHODS:
            for_openai = OpenAIGeneration.of_task(task, given, self._served)
            return for_openai, for_openai.requests
        prompt = convert(given, TokenizedPrompt)
        params = sampling_params(prompt.params, self._defaults)
        if prompt.parse_tools and self._answers.needs_special_tokens:
            params = replace(params, skip_special_tokens=False)
        journal = Journal(task.assignment.journal)
        if params.seed is None:
            params = replace(params, seed=journal.seed)
        completions = []
        for index in range(params.n):
            parser = WholeCalls(make_parser(self._answers.calls), journal, index) if prompt.parse_tools else None
            tokens = self._served.token_text if params.logprobs is not None else None
            completions.append(GrowingCompletion(parser, tokens))
        return Generation(task, completions, journal, prompt.context), [SequenceRequest(prompt.token_ids, params)]

    @cached_property
    def _answers(self) -> AnswerFormat:
        """How the model writes calls. Read when a task has tools: few do."""
        return AnswerFormat.of_template(template_text(self._folder))

    @cached_property
    def _served(self) -> ServedModel:
        """What the OpenAI API needs of the model."""
        return ServedModel(self._folder, self._engine.tokenizer, (self._model.name,), self._engine.max_model_len)


def sampling_params(asked: GenerationParams, defaults: dict[str, Any]) -> SamplingParams:
    """What was asked for, over the model's defaults. Raises flowserve's InvalidRequestError."""
    names = [name for name in asked.__struct_fields__ if name not in ("stop", "json_schema")]
    given = {name: getattr(asked, name) for name in names if getattr(asked, name) is not None}
    structured = StructuredOutputsParams(json=asked.json_schema) if asked.json_schema is not None else None
    return params_over(defaults, {**given, "stop": asked.stop, "structured_outputs": structured})
