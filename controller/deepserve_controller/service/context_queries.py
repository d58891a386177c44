"""Questions and orders about contexts, from processes that use the SDK."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from deepserve_controller.errors import QueryError
from deepserve_controller.service.contexts import ContextInfo, ContextRefused, Contexts
from deepserve_controller.service.query_body import Body, optional, required


def context_queries(contexts: Contexts) -> dict[str, Callable[[str, Body], Body]]:
    """By name. All raise QueryError with the code of the ContextRefused, `invalid` where that has none."""

    def list_all(link_id: str, body: Body) -> Body:
        label = optional(body, "label", str, "")
        return {"contexts": [plain(info) for info in contexts.infos([label] if label else None)]}

    def extend(link_id: str, body: Body) -> Body:
        ttl_s = float(required(body, "ttl_s", (int, float)))
        return plain(contexts.extend(required(body, "context_id", str), ttl_s))

    def delete(link_id: str, body: Body) -> Body:
        contexts.delete(required(body, "context_id", str))
        return {}

    asked = {"contexts": list_all, "extend_context": extend, "delete_context": delete}
    return {name: _telling(answer) for name, answer in asked.items()}


def plain(info: ContextInfo) -> Body:
    described: Body = msgspec.to_builtins(info)
    return described


def _telling(answer: Callable[[str, Body], Body]) -> Callable[[str, Body], Body]:
    def told(link_id: str, body: Body) -> Body:
        try:
            return answer(link_id, body)
        except ContextRefused as error:
            raise QueryError(error.outcome.code or "invalid", error.outcome.detail) from None

    return told
