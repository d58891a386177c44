"""`deepserve token new|list|revoke`: keys of the OpenAI API."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import urlsplit

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
        alike = [each["key_id"] for each in query(client, "keys")["keys"] if each["name"] == name]
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
        url = query(client, "status").get("url")
    if alike:
        complain(f"the name {name!r} is also that of {', '.join(alike)}: `token revoke` will need the id")
    if missing := [model for model in models if model not in there]:
        complain(
            f"no model {', '.join(map(repr, missing))} is deployed yet; there is: {', '.join(there) or 'none'}. "
            "The key is good as soon as one is."
        )
    if url:
        keeps = f"deepserve up --http-port {urlsplit(url).port}"
        complain(f"base_url is {url}/v1; it stays the same where each start is `{keeps}`")
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


def revoke_token(key: str, *, as_json: bool) -> int:
    """`key`: an id, or a name that only one has."""
    with connected() as client:
        revoked = query(client, "revoke_key", key_id=key)
    if as_json:
        print_json(revoked)
    else:
        print(f"Revoked {revoked['name']} ({revoked['key_id']}): what it runs ends now.")
    return OK
