"""`deepserve token`: keys of the OpenAI API, used by the official client against `deepserve up`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deepserve.protocol.key_scopes import SCOPES
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
    again = shell.run("token", "new", "bob")
    assert again.returncode == 0 and f"the name 'bob' is also that of {made['key_id']}" in again.stderr
    assert f"base_url is {url}/v1" in again.stderr and "--http-port" in again.stderr
    doubtful = shell.run("token", "revoke", "bob")
    assert doubtful.returncode == 2 and made["key_id"] in doubtful.stderr
    assert "bob" in shell.out("token", "revoke", made["key_id"])
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key=made["key"]).models.list()
    assert shell.run("token", "revoke", made["key_id"]).returncode == 3
    assert "Revoked bob (key-" in shell.out("token", "revoke", "bob")
    wrong = shell.run("token", "new", "eve", "--scope", "everything")
    assert wrong.returncode != 0 and "there is no scope 'everything'" in wrong.stderr


def test_help_names_the_scopes(shell: Shell) -> None:
    shell.environment |= {"COLUMNS": "200", "TERM": "dumb"}
    shown = shell.out("token", "new", "--help")
    assert all(scope in shown for scope in SCOPES) and "--http-port" in shown
