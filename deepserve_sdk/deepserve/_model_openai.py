"""`llm.openai()`: the official client, bound to the controller's OpenAI API and to one model."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from deepserve._current_client import current_client
from deepserve._engine_packages import require_engine
from deepserve._event_loop import running_library
from deepserve.errors import MissingPackage

if TYPE_CHECKING:
    import openai

    from deepserve._model import Model

_BOUND = {
    "chat.completions": ("create", "parse", "stream"),
    "completions": ("create",),
    "embeddings": ("create",),
    "responses": ("create", "parse", "stream"),
}
"""Methods that take a model; the others name none, or any."""


class Address(NamedTuple):
    """Of the controller's OpenAI API."""

    base_url: str
    api_key: str


class OpenAIVerb:
    """`llm.openai()` and `llm.openai.aio()`."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __call__(self, **options: Any) -> openai.OpenAI:
        """options: those of `openai.OpenAI` (timeout, max_retries, ...). Raises MissingPackage, ModelLoadError."""
        package = _package()
        client: openai.OpenAI = package.OpenAI(**self._address()._asdict(), **options)
        _bind(client, self._model.name)
        return client

    def aio(self, **options: Any) -> openai.AsyncOpenAI:
        """The asynchronous client; nothing to await. Raises MissingPackage, ModelLoadError.

        Made on a running asyncio loop, it finds the controller at its first request, in a thread: until then its
        base_url is a placeholder.
        """
        package = _package()
        self._model.refuse_script("llm.openai")
        if running_library() == "asyncio" and "http_client" not in options:
            client = self._late(package, options)
        else:
            client = package.AsyncOpenAI(**self._address()._asdict(), **options)
        _bind(client, self._model.name)
        return client

    def _late(self, package: Any, options: dict[str, Any]) -> openai.AsyncOpenAI:
        from deepserve._late_address import PLACEHOLDER_KEY, PLACEHOLDER_URL, LateAddress

        self._model.definitions()  # what is wrong with it is told here
        late = LateAddress(self._address)
        http_client = package.DefaultAsyncHttpxClient(event_hooks={"request": [late.put_on]})
        client: openai.AsyncOpenAI = package.AsyncOpenAI(
            base_url=PLACEHOLDER_URL, api_key=PLACEHOLDER_KEY, http_client=http_client, **options
        )

        def tell(address: Address) -> None:
            client.base_url, client.api_key = address

        late.on_found = tell
        return client

    def _address(self) -> Address:
        self._model.refuse_script("llm.openai")
        client = current_client(self._model.spec.environment)
        require_engine(client.controller)
        for definition in self._model.definitions():
            client.define(definition)
        answer = client.query("openai_address")
        return Address(answer["base_url"], answer["api_key"])


def _package() -> Any:
    try:
        import openai
    except ImportError:
        raise MissingPackage(
            "llm.openai() needs the package openai: pip install 'deepserve[openai]' (or openai alone)"
        ) from None
    return openai


def _bind(client: Any, name: str) -> None:
    """`model` need not be given any more, and may be."""
    for place, methods in _BOUND.items():
        resource = client
        for part in place.split("."):
            resource = getattr(resource, part)
        for method in methods:
            if hasattr(resource, method):
                setattr(resource, method, partial(getattr(resource, method), model=name))
