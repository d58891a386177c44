"""ApiKeys: who may use the OpenAI API. Secrets are shown once; what is kept is their digest."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from deepserve.protocol.digest import sha256
from deepserve.protocol.key_scopes import SCOPES
from deepserve_controller.errors import QueryError, StoreUnreadable
from deepserve_controller.service.query_body import Body, optional, required
from deepserve_controller.service.recipients import Recipients
from deepserve_controller.service.store import ApiKey, Records
from deepserve_controller.service.tokens import new_name, new_token

ROOT = ApiKey("root", "the controller's own key", "")
"""May everything, without limits: whoever has the key of the HTTP port has the whole controller."""
MAX_NAME_CHARS = 200


class ApiKeys:
    def __init__(self, records: Records, recipients: Recipients) -> None:
        """Raises StoreUnreadable."""
        self._records = records
        self._recipients = recipients
        self._process_token = new_token()
        """From which the secrets of processes are made, so that each has one, however often it asks."""
        self._by_digest = {key.digest: key for key in map(_read, records.all())}
        self.on_revoked: list[Callable[[str], None]] = []
        """Called with the id of a key that must not be used any more."""
        self.queries: dict[str, Callable[[str, Body], Body]] = {
            "new_key": self._answer_new,
            "keys": self._answer_list,
            "revoke_key": self._answer_revoke,
        }

    def find(self, secret: str) -> ApiKey | None:
        """Found by digest, so that the time it takes tells nothing of the secrets there are."""
        key = self._by_digest.get(_digest(secret))
        return key if key is not None and self.is_valid(key) else None

    def is_valid(self, key: ApiKey) -> bool:
        if key is ROOT:
            return True
        return key.digest in self._by_digest and (not key.link_id or key.link_id in self._recipients)

    def new(self, name: str, **options: object) -> tuple[ApiKey, str]:
        """The key, and its secret, which nobody can learn later."""
        return self._add(f"sk-{new_token()}", name, **options)

    def _add(self, secret: str, name: str, **options: object) -> tuple[ApiKey, str]:
        fields = {"key_id": f"key-{new_name(6)}", "name": name, "created_at": time.time()}
        key = msgspec.convert({**fields, "digest": _digest(secret), **options}, ApiKey)
        if not key.link_id:
            self._records.put(key.key_id, msgspec.msgpack.encode(key))
        self._by_digest[key.digest] = key
        return key, secret

    def new_for(self, link_id: str) -> str:
        """The secret that is good while the process behind this link is connected."""
        for digest, key in list(self._by_digest.items()):
            if not self.is_valid(key):
                del self._by_digest[digest]
        secret = f"sk-{_digest(f'{self._process_token} {link_id}')}"
        if self.find(secret) is None:
            self._add(secret, f"of {link_id}", link_id=link_id)
        return secret

    def revoke(self, key_id: str) -> ApiKey:
        """Raises QueryError(not_found)."""
        key = next((key for key in self._by_digest.values() if key.key_id == key_id), None)
        if key is None:
            raise QueryError("not_found", f"there is no key {key_id!r}")
        if not key.link_id:
            self._records.remove(key_id)
        del self._by_digest[key.digest]
        for tell in self.on_revoked:
            tell(key_id)
        return key

    # --- queries ---

    def _answer_new(self, link_id: str, body: Body) -> Body:
        name = required(body, "name", str)
        if not 0 < len(name) <= MAX_NAME_CHARS:
            raise QueryError("invalid", f"name must have 1 to {MAX_NAME_CHARS} characters")
        options = {field: _words(body, field) for field in ("scopes", "models")}
        if unknown := [scope for scope in options["scopes"] if scope not in SCOPES]:
            raise QueryError("invalid", f"there is no scope {unknown[0]!r} (there are: {', '.join(SCOPES)})")
        limits = {field: optional(body, field, int, 0) for field in ("requests_per_minute", "tokens_per_minute")}
        for field, limit in limits.items():
            if limit < 0:
                raise QueryError("invalid", f"{field} must be 0 (none) or more, not {limit}")
        key, secret = self.new(name, **options, **limits)
        return {**describe(key), "key": secret}

    def _answer_list(self, link_id: str, body: Body) -> Body:
        return {"keys": [describe(key) for key in self._by_digest.values() if self.is_valid(key) and not key.link_id]}

    def _answer_revoke(self, link_id: str, body: Body) -> Body:
        return describe(self.revoke(self._id_meant(required(body, "key_id", str))))

    def _id_meant(self, word: str) -> str:
        """An id, or the name of one key. Raises QueryError(invalid) where several have it."""
        if any(key.key_id == word for key in self._by_digest.values()):
            return word
        named = [key.key_id for key in self._by_digest.values() if key.name == word and not key.link_id]
        if len(named) > 1:
            raise QueryError("invalid", f"{len(named)} keys are named {word!r}; name one by id: {', '.join(named)}")
        return named[0] if named else word


def describe(key: ApiKey) -> Body:
    described: Body = msgspec.to_builtins(key)
    del described["digest"], described["link_id"]
    return described


def _read(record: tuple[str, bytes]) -> ApiKey:
    try:
        return msgspec.msgpack.decode(record[1], type=ApiKey)
    except msgspec.DecodeError as error:
        raise StoreUnreadable(f"the stored key {record[0]!r} cannot be read: {error}") from None


def _words(body: Body, field: str) -> list[str]:
    found: list[str] = optional(body, field, list, [])
    if not all(isinstance(word, str) and word for word in found):
        raise QueryError("invalid", f"{field} must be a list of words")
    return found


def _digest(secret: str) -> str:
    return sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
