"""/v1/contexts: the start of chats, kept by id (DeepServe's explicit context caching), each key's for itself."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from deepserve.protocol.model_io import ContextInput
from deepserve_controller.service.contexts import ContextInfo, prefix_of
from deepserve_controller.service.openai.api_keys import ROOT
from deepserve_controller.service.openai.body import decode
from deepserve_controller.service.openai.fault import Fault, invalid
from deepserve_controller.service.store import ApiKey
from deepserve_controller.service.tokens import new_name

TTL_S = 600.0
OWNED = "ctx-key-"
"""So ids begin that were made with a key; the key's own id follows."""
MAX_SHOWN_CHARS = 100
MESSAGE_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content")
"""Others are ignored, as everywhere in this API."""
MAX_TTL_S = 30 * 24 * 3600.0


class ContextBody(msgspec.Struct):
    """ttl: seconds after its last use.  context_id: of another one, which these messages continue."""

    model: str
    messages: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]
    tools: list[dict[str, Any]] | None = None
    ttl: Annotated[float, msgspec.Meta(gt=0, le=MAX_TTL_S)] | None = None
    context_id: str | None = None


class ExtendBody(msgspec.Struct):
    ttl: Annotated[float, msgspec.Meta(gt=0, le=MAX_TTL_S)]


class ContextCard(msgspec.Struct):
    id: str
    model: str
    num_tokens: int
    ttl: float
    created: int
    expires_in: float
    object: str = "context"


def read_context(body: bytes, key: ApiKey) -> ContextInput:
    """Its id says whose it is. Raises Fault 400 that names the field, 404 for another key's that it continues."""
    asked = decode(body, ContextBody)
    messages = [{key: message[key] for key in MESSAGE_FIELDS if key in message} for message in asked.messages]
    if asked.context_id:
        check_owner(asked.context_id, key)
    name, ttl_s = f"{_prefix(key)}{new_name(12)}", asked.ttl or TTL_S
    context = ContextInput(name, messages, ttl_s, asked.tools or [], asked.context_id or "")
    try:
        msgspec.msgpack.encode(context)
    except (ValueError, OverflowError, RecursionError) as error:  # JSON knows larger integers, and half characters
        raise invalid(f"messages and tools cannot be passed on: {error}", "messages") from None
    return context


def read_extension(body: bytes) -> float:
    """The time to live in seconds. Raises Fault 400."""
    return decode(body, ExtendBody).ttl


def check_owner(context_id: str, key: ApiKey) -> None:
    """A key cannot use what another one made. What processes of the SDK made is for who was told its id.

    Raises Fault 404.
    """
    if context_id.startswith(OWNED) and _is_of_a_tenant(key) and not is_own(context_id, key):
        text = f"there is no context {context_id[:MAX_SHOWN_CHARS]!r} that the key may use"
        raise Fault(404, text, code="context_not_found", param="context_id")


def is_own(context_id: str, key: ApiKey) -> bool:
    """Whether the key is told of it unasked: processes of the SDK and the controller's own key are of all."""
    return not _is_of_a_tenant(key) or context_id.startswith(_prefix(key))


def _is_of_a_tenant(key: ApiKey) -> bool:
    return key is not ROOT and not key.link_id


def _prefix(key: ApiKey) -> str:
    return prefix_of(key.key_id) if _is_of_a_tenant(key) else "ctx-"


def card_of(info: ContextInfo) -> ContextCard:
    """The model's name is the last part of its label."""
    model = info.label.partition("/")[2]
    return ContextCard(info.context_id, model, info.num_tokens, info.ttl_s, int(info.created_at), info.expires_in_s)
