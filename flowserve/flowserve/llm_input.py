"""What callers hand to LLM, told apart: one prompt or many, one conversation or many, parameters for all or each.

All raise InvalidRequestError kinds with words for the caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .errors import InvalidPromptError, InvalidRequestError
from .messages import joined_content, problem_of_message, template_role
from .sampling_params import SamplingParams

Prompt = str | Sequence[int]
Message = dict[str, Any]


def listed_prompts(prompts: Any) -> list[Prompt]:
    """Of one text, or of texts and lists of token ids in any mixture."""
    if isinstance(prompts, str):
        return [prompts]
    if not _is_listing(prompts):
        raise InvalidPromptError(f"prompts must be a text or a list of texts or token ids, got {_kind(prompts)}")
    return [_prompt(index, prompt) for index, prompt in enumerate(prompts)]


def conversations_of(messages: Any) -> list[list[Message]]:
    """Of one list of messages, or of a list of those; each checked."""
    if isinstance(messages, str) or not _is_listing(messages):
        raise InvalidRequestError(
            f"messages must be a list of dicts with role and content, or a list of such lists; got {_kind(messages)}"
            " (generate takes a text as it is)"
        )
    listed = list(messages)
    if listed and all(_is_listing(each) for each in listed):
        return [_conversation(each, f"conversation {index}: ") for index, each in enumerate(listed)]
    return [_conversation(listed)]


def listed_tools(tools: Any) -> list[dict[str, Any]] | None:
    """As templates show them to the model: what is no function would be written into the prompt without a word."""
    if tools is None:
        return None
    if not _is_listing(tools):
        raise InvalidRequestError(f"tools must be a list of dicts, got {_kind(tools)}")
    listed = list(tools)
    for index, tool in enumerate(listed):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            like = '{"type": "function", "function": {"name": ..., "parameters": ...}}'
            raise InvalidRequestError(f"tools[{index}] must be like {like}, got {tool!r}")
    return listed or None


def is_conversation(prompt: Any) -> bool:
    """Whether what `stream` got is messages, and not a text or token ids."""
    return isinstance(prompt, list | tuple) and len(prompt) > 0 and isinstance(prompt[0], Mapping)


def single_prompt(prompt: Any) -> Prompt:
    """A text or token ids, as `stream` takes them beside messages."""
    if isinstance(prompt, str):
        return prompt
    if not _is_listing(prompt):
        raise InvalidPromptError(f"a stream is of a text, token ids or messages, got {_kind(prompt)}")
    listed = list(prompt)
    if listed and (isinstance(listed[0], str) or _is_listing(listed[0])):
        raise InvalidPromptError(f"a stream is of one prompt, got a list of {len(listed)}: generate takes several")
    return listed


def params_for_each(params: Any, num: int) -> list[SamplingParams]:
    """None = the defaults."""
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * num
    if not isinstance(params, list | tuple) or not all(isinstance(each, SamplingParams) for each in params):
        culprit = params
        if isinstance(params, list | tuple):
            culprit = next(each for each in params if not isinstance(each, SamplingParams))
        raise InvalidRequestError(f"sampling_params must be SamplingParams or a list of them, got {_kind(culprit)}")
    if len(params) != num:
        raise InvalidRequestError(f"{num} prompts but {len(params)} SamplingParams")
    return list(params)


def _prompt(index: int, prompt: Any) -> Prompt:
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, int):
        raise InvalidPromptError("a list of token ids needs another pair of brackets: [[1, 2, 3]] is one prompt")
    if not _is_listing(prompt):
        raise InvalidPromptError(f"prompt {index} must be a text or token ids, got {_kind(prompt)}")
    return list(prompt)


def _conversation(messages: Iterable[Any], before: str = "") -> list[Message]:
    checked: list[Message] = []
    for index, message in enumerate(messages):
        if (problem := problem_of_message(message)) is not None:
            field = f".{problem.field}" if problem.field else ""
            raise InvalidRequestError(f"{before}messages[{index}]{field} {problem.words}")
        plain = {**message, "role": template_role(message["role"])}
        checked.append({**plain, "content": joined_content(message["content"])} if "content" in message else plain)
    if not checked:
        raise InvalidRequestError(f"{before}there are no messages")
    return checked


def _is_listing(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray | memoryview | Mapping)


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
