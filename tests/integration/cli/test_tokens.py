"""`deepserve token`: keys of the OpenAI API, used by the official client against `deepserve up`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.cli.conftest import Shell

openai = pytest.importorskip("openai")


def test_keys_are_made_used_listed_and_revoked(shell: Shell) -> None:
    assert shell.run("token", "list").returncode == 5  # no controller
    up = json.loads(shell.out("up", "--json"))
    secret = shell.out("token", "new", "ada", "--scope", "models", "--requests-per-minute", "2").strip()
    asked = shell.run("token", "new", "bob", "--model", "tiny", "--json")
    made: Any = json.loads(asked.stdout)  # the model may come later
    assert asked.returncode == 0 and "no model 'tiny' is deployed yet" in asked.stderr
    listed = json.loads(shell.out("token", "list", "--json"))
    assert [(key["name"], key["scopes"], key["models"]) for key in listed] == [
        ("ada", ["models"], []),
        ("bob", [], ["tiny"]),
    ]
    assert "ada" in shell.out("token", "list") and secret not in shell.out("token", "list")
    url = up["url"] if "url" in up else json.loads(shell.out("status", "--json"))["url"]
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0)
    assert list(client.models.list()) == []
    with pytest.raises(openai.PermissionDeniedError):
        client.completions.create(model="tiny", prompt="x")
    assert "bob" in shell.out("token", "revoke", made["key_id"])
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key=made["key"]).models.list()
    assert shell.run("token", "revoke", made["key_id"]).returncode == 3
    wrong = shell.run("token", "new", "eve", "--scope", "everything")
    assert wrong.returncode != 0 and "there is no scope 'everything'" in wrong.stderr
