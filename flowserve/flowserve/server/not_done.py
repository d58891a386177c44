"""NotDone: fields of OpenAI's and vLLM's servers that would change the answer, and are not done here.

Fields that nobody knows are ignored; who asks for one of these would get the answer to another question.
"""

from __future__ import annotations

from typing import Any

import msgspec

from .api_error import invalid

_INSTEAD = {
    "guided_json": "its newer name is structured_outputs.json",
    "guided_regex": "its newer name is structured_outputs.regex",
    "guided_choice": "its newer name is structured_outputs.choice",
    "guided_grammar": "its newer name is structured_outputs.grammar",
    "prompt_logprobs": "completions with echo and logprobs tell them",
    "truncate_prompt_tokens": "a prompt must fit the context",
    "chat_template": "the model's own is taken",
    "documents": "put them into a message",
    "echo": "only completions repeat their prompt",
    "add_special_tokens": "the model's template writes them",
}


class NotDone(msgspec.Struct, kw_only=True):
    """Of completions and chats alike."""

    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    prompt_logprobs: Any = None
    truncate_prompt_tokens: Any = None
    allowed_token_ids: Any = None
    use_beam_search: Any = None

    def check_done(self, *others: str) -> None:
        """others: fields of the request's own kind. Raises ApiError for one that asks for something."""
        for name in (*NotDone.__struct_fields__, *others):
            if getattr(self, name) not in (None, False, "", [], {}):
                why = f": {_INSTEAD[name]}" if name in _INSTEAD else ""
                raise invalid(f"{name} is not supported{why}", name)
