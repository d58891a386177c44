"""What an answer asks the engine for: its prompts, before and after they are token ids.

Free of torch and of any event loop: prompts may be encoded in another process than the engine's.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from ..sampling_params import SamplingParams


class Prompt(msgspec.Struct, frozen=True, omit_defaults=True):
    """token_ids: None while `text` is still to be encoded; a prompt that came as ids has the text that they spell only
    where it is to be echoed."""

    text: str
    add_special_tokens: bool = True
    token_ids: list[int] | None = None


@dataclass(frozen=True, slots=True)
class SequenceRequest:
    """What the engine is asked for: a prompt, and params.n completions of it. cache_salt: whose KV it may use."""

    prompt_ids: list[int]
    params: SamplingParams
    priority: int = 0
    cache_salt: str | None = None
