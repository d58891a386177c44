"""Keys of the OpenAI API under `--up`: made and revoked by queries, kept through a restart, good for `/v1` alone."""

from __future__ import annotations

import json
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.integration.controller.peers import TIMEOUT_S, Controller


def get(up: Controller, path: str, key: str) -> tuple[int, Any]:
    url = json.loads((up.runtime / "up.json").read_text())["url"]
    request = urllib.request.Request(url + path, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_keys_live_in_the_state_folder() -> None:
    with tempfile.TemporaryDirectory(prefix="ds-") as name:
        first = Controller(Path(name), embedded=False)
        try:
            first.wait_until_up()
            client = first.dial()
            made = client.query("new_key", name="ada", scopes=["models"], tokens_per_minute=10).body
            other = client.query("new_key", name="bob").body
            root = (first.folder / "state/deepserve/key").read_text().strip()
            assert get(first, "/v1/models", root) == (200, {"object": "list", "data": []})
            assert get(first, "/v1/models", made["key"])[0] == 200
            assert get(first, "/api/status", made["key"])[0] == 401
            unknown, none = (get(first, "/v1/models", key)[1]["error"] for key in ("sk-of-nobody", ""))
            assert unknown["code"] == none["code"] == "invalid_api_key"
            assert "never was, or was revoked" in unknown["message"] and "send a key" in none["message"]
            assert get(first, "/v1/nowhere", root)[0] == 404
            assert get(first, "/v1/openapi.json", "")[1]["openapi"].startswith("3.")
            assert client.query("new_key", name="x", scopes=["all"]).error == "invalid"
            assert client.query("revoke_key", key_id="key-unknown").error == "not_found"
            assert client.query("revoke_key", key_id=other["key_id"]).body["name"] == "bob"
            assert get(first, "/v1/models", other["key"])[0] == 401
            address = client.query("openai_address").body
            assert address["base_url"].startswith("http://127.0.0.1:")
            assert get(first, "/v1/models", address["api_key"])[0] == 200
            client.close()
            first.stop()
        finally:
            first.kill()
        second = Controller(Path(name), embedded=False)
        try:
            second.wait_until_up()
            [kept] = second.dial().query("keys").body["keys"]
            assert kept["name"] == "ada" and "key" not in kept and "digest" not in kept
            assert get(second, "/v1/models", made["key"])[0] == 200
            assert get(second, "/v1/models", address["api_key"])[0] == 401
            second.stop()
            assert "Traceback" not in second.said(), second.said()
        finally:
            second.kill()


def test_an_embedded_controller_opens_its_port_when_it_is_asked() -> None:
    with tempfile.TemporaryDirectory(prefix="ds-") as name:
        controller = Controller(Path(name), embedded=True)
        try:
            client = controller.owner
            function = client.define("work")
            address = client.query("openai_address").body
            again = client.query("openai_address").body
            assert again == address  # one key for each process
            url = address["base_url"] + "/models"
            request = urllib.request.Request(url, headers={"Authorization": f"Bearer {address['api_key']}"})
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                assert json.load(response)["data"] == []
            client.open("rq-1", function, payload=b"x")  # and serves calls as before
            assert client.finished("rq-1")[1] == b"x"
            controller.stop()
            assert "Traceback" not in controller.said(), controller.said()
        finally:
            controller.kill()
