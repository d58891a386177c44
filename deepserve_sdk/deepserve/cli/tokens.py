"""`deepserve token new|list|revoke`: keys of the OpenAI API."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from deepserve.cli.connection import connected, query
from deepserve.cli.exit_codes import OK
from deepserve.cli.output import complain, print_json, print_table


def new_token(
    name: str,
    *,
    scopes: Sequence[str],
    models: Sequence[str],
    requests_per_minute: int,
    tokens_per_minute: int,
    as_json: bool,
) -> int:
    with connected() as client:
        made = query(
            client,
            "new_key",
            name=name,
            scopes=list(scopes),
            models=list(models),
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
        )
        there = [each["name"] for each in query(client, "models")["models"]] if models else []
    if missing := [model for model in models if model not in there]:
        complain(
            f"no model {', '.join(map(repr, missing))} is deployed yet; there is: {', '.join(there) or 'none'}. "
            "The key is good as soon as one is."
        )
    if as_json:
        print_json(made)
    else:
        print(made["key"])
    return OK


def list_tokens(*, as_json: bool) -> int:
    with connected() as client:
        keys = query(client, "keys")["keys"]
    if as_json:
        print_json(keys)
        return OK
    rows = [
        (
            key["key_id"],
            key["name"],
            ", ".join(key["scopes"]) or "all",
            ", ".join(key["models"]) or "all",
            key["requests_per_minute"] or "-",
            key["tokens_per_minute"] or "-",
            datetime.fromtimestamp(key["created_at"], UTC).strftime("%Y-%m-%d %H:%M"),
        )
        for key in keys
    ]
    columns = ("id", "name", "scopes", "models", "requests/min", "tokens/min", "made (UTC)")
    print_table(columns, rows, empty="There are no keys. Make one: deepserve token new NAME")
    return OK


def revoke_token(key_id: str, *, as_json: bool) -> int:
    with connected() as client:
        revoked = query(client, "revoke_key", key_id=key_id)
    if as_json:
        print_json(revoked)
    else:
        print(f"Revoked {revoked['name']} ({key_id}): what it runs ends now.")
    return OK
