"""A language model hosted on FlowServe pods, as users hold it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Never

import msgspec

from deepserve._current_client import current_client
from deepserve._definition import Definition
from deepserve._model_client import ClientRequests
from deepserve._model_openai import OpenAIVerb
from deepserve._model_request import ModelRequests
from deepserve._model_source import ModelSource, remember_source
from deepserve._model_verbs import CacheVerb, ChatVerb, EmbedVerb, GenerateVerb, StreamVerb
from deepserve._options import UNSET, Options, merge_options
from deepserve.errors import InvalidOption, ModelError, ModelLoadError
from deepserve.protocol.model_io import ENGINE_SEATS, TOKENIZER_SEATS
from deepserve.protocol.specs import CodeRef, FunctionSpec, ModelSpec, Scaling, function_id
from deepserve.settings import current_settings

MODEL_APP = "models"
REQUEST_TIMEOUT_S = 3600.0
STARTUP_TIMEOUT_S = 600.0
_BUILT_IN = CodeRef("builtin", "", "")
DTYPES = ("auto", "float32", "bfloat16")
QUANTIZATIONS = (None, "int8", "int4")
KV_CACHE_DTYPES = ("auto", "float32", "int8")
MAX_SPECULATIVE_TOKENS = 32
"""FlowServe's, which is not at hand here; a test compares them."""


class Model:
    """A hosted language model.

        llm = deepserve.Model("qwen3-0.6b", source="Qwen/Qwen3-0.6B")
        llm.chat("hi").text

    Constructing it starts nothing; the first request loads it in a pod, and further pods are added up to max_pods
    while requests queue. Usable in scripts and in pods, where its requests are children of the caller's request.

    name: for people. source: a hub id, or a folder in Hugging Face layout (config.json, safetensors, tokenizer.json),
    relative to the current folder or else to the file that constructs the Model; at a deployed file's top level, the
    folder that was current at deploy is meant in its pods too. accelerator: kinds in order of
    preference, each `kind[:model][:count]`. tensor_parallel: devices that share one copy. dtype: of the weights,
    `auto` as the device computes best. quantization: of the weights, `int8` or `int4`. kv_cache_dtype: `auto`,
    `float32` or `int8`. speculative_tokens: so many are guessed at most and verified in one step; 0 is off.
    max_model_len: tokens of context, at most the model's own. memory: MiB of a pod, reserved and enforced.
    min_pods, max_pods: how many pods; scaledown_window: seconds without a request after which a pod is given up. At the
    top level of a file that is deployed, a Model is deployed with it.

    Raises InvalidOption. Every request raises ModelLoadError where the model cannot be loaded (missing, truncated, of
    an unknown architecture), InvalidModelOption, which is both, where the folder or the memory refuses an option,
    PromptTooLongError, and the errors of any remote call.
    (Names after Modal's functions and vLLM's engine arguments.)
    """

    def __init__(
        self,
        name: str,
        source: str | os.PathLike[str],
        *,
        accelerator: str | Sequence[str] = ("npu", "gpu", "cpu"),
        tensor_parallel: int = 1,
        dtype: str = "auto",
        quantization: str | None = None,
        kv_cache_dtype: str = "auto",
        speculative_tokens: int = 0,
        min_pods: int = 0,
        max_pods: int = 8,
        scaledown_window: float = 300,
        max_model_len: int | None = None,
        memory: int | None = None,
        **unknown: Never,
    ) -> None:
        if unknown:
            raise _no_option(name, next(iter(unknown)))
        if not isinstance(source, str | os.PathLike) or not os.fspath(source):
            raise InvalidOption(f"Model {name!r}: source={source!r} is neither a folder nor a hub id")
        given = {
            "name": name,
            "accelerator": accelerator,
            "min_pods": min_pods,
            "max_pods": max_pods,
            "scaledown_window": scaledown_window,
            "memory": UNSET if memory is None else memory,
        }
        self.name = name
        self._is_found = False
        self._timeout_s = 0.0
        self._options = merge_options(Options(), f"Model {name!r}", given)
        self._check("tensor_parallel", tensor_parallel, isinstance(tensor_parallel, int) and tensor_parallel >= 1)
        is_length = max_model_len is None or (isinstance(max_model_len, int) and max_model_len >= 1)
        self._check("max_model_len", max_model_len, is_length)
        self._check_choice("dtype", dtype, DTYPES)
        self._check_choice("quantization", quantization, QUANTIZATIONS)
        self._check_choice("kv_cache_dtype", kv_cache_dtype, KV_CACHE_DTYPES)
        is_guess = isinstance(speculative_tokens, int) and 0 <= speculative_tokens <= MAX_SPECULATIVE_TOKENS
        self._check("speculative_tokens", speculative_tokens, is_guess, f" (0 to {MAX_SPECULATIVE_TOKENS})")
        file = sys._getframe(1).f_globals.get("__file__") or ""
        self._source = ModelSource(os.fspath(source), os.path.abspath(file) if file else "", os.getcwd())
        remember_source(self._source)
        self._engine = ModelSpec(
            name, "", dtype, quantization, tensor_parallel, max_model_len, kv_cache_dtype, speculative_tokens
        )

    @staticmethod
    def from_name(name: str) -> Model:
        """A model that was deployed, from any process: `deepserve deploy app.py`, `deepserve model deploy`.

        Raises NotFound, naming what there is. (Modal: `modal.Function.from_name`.)
        """
        found = msgspec.convert(current_client().query("find_model", {"name": name})["spec"], FunctionSpec)
        assert found.model is not None
        model = Model.__new__(Model)
        model.name = name
        model._is_found = True
        model._timeout_s = 0.0
        model._options = Options(name=name, resources=found.resources, scaling=found.scaling)
        model._engine = found.model
        model._source = ModelSource(found.model.source, "", "")
        model.source = found.model.source  # a folder of the machine that the pods run on
        return model

    def with_options(self, *, timeout: float | None, **unknown: Never) -> Model:
        """This model, on the same pods, whose requests may each run for `timeout` seconds; None: for an hour, as ever.

        One that runs longer raises FunctionTimeout, and the engine drops it. Waiting for a pod does not count, a
        stream's reader that lets it wait does. Raises InvalidOption. (Functions: `with_options`.)
        """
        if unknown:
            option = next(iter(unknown))
            raise InvalidOption(f"Model {self.name!r}: with_options takes timeout=; {option}= makes another Model")
        given = {} if timeout is None else {"timeout": timeout}
        timeout_s = merge_options(Options(timeout_s=0.0), f"Model {self.name!r}", given).timeout_s
        model = Model.__new__(Model)
        model.__dict__.update({name: value for name, value in self.__dict__.items() if name != "to_pods"})
        model._timeout_s = timeout_s
        return model

    def __repr__(self) -> str:
        return f"<deepserve.Model {self.name}>"

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = {"name": self.name, "_is_found": self._is_found, "_options": self._options}
        state["_timeout_s"] = self._timeout_s
        state |= {"_engine": self._engine, "_source": self._source}
        try:
            state["source"] = self.source  # elsewhere the current folder is another one
        except ModelLoadError:  # said where the model is used
            pass
        return state

    @cached_property
    def source(self) -> str:
        """The absolute folder, or the hub id. Raises ModelLoadError where there is no such folder."""
        return self._source.resolve()

    @cached_property
    def spec(self) -> FunctionSpec:
        """What the model's pods are bound to. Raises ModelLoadError."""
        return FunctionSpec(
            app=MODEL_APP,
            name=self.name,
            kind="model",
            code=_BUILT_IN,
            environment="flowserve",
            resources=self._options.resources,
            scaling=msgspec.structs.replace(self._options.scaling, max_inputs=ENGINE_SEATS),
            timeout_s=REQUEST_TIMEOUT_S,
            startup_timeout_s=STARTUP_TIMEOUT_S,
            model=self._with_source(self._engine),
            tokenizer=function_id(self.tokenizer_spec),
            replay="resume",
        )

    @cached_property
    def tokenizer_spec(self) -> FunctionSpec:
        """The pool that writes the model's prompts and counts their tokens; it scales by itself.

        It has the engine's options, which it checks against the folder long before an engine could.
        """
        return FunctionSpec(
            app=MODEL_APP,
            name=f"{self.name}.tokenizer",
            kind="tokenizer",
            code=_BUILT_IN,
            environment="tokenizer",
            scaling=Scaling(
                min_pods=min(1, self._options.scaling.min_pods),
                scaledown_window_s=self._options.scaling.scaledown_window_s,
                max_inputs=TOKENIZER_SEATS,
            ),
            timeout_s=REQUEST_TIMEOUT_S,
            startup_timeout_s=STARTUP_TIMEOUT_S,
            model=self._with_source(self._engine),
        )

    def definitions(self) -> tuple[Definition, Definition]:
        """Of the model and of its tokenizer, as a controller gets them. Raises ModelLoadError."""
        return _definition(self.spec, self._is_found), _definition(self.tokenizer_spec, self._is_found)

    @property
    def requests(self) -> ModelRequests:
        """How requests reach the model; what agents use."""
        if scripts := current_settings().scripted_models:
            from deepserve._scripted_requests import ScriptedRequests

            return ScriptedRequests(scripts, self.name, lambda: self.to_pods)
        return self.to_pods

    def refuse_script(self, verb: str) -> None:
        """Raises ModelError where a test has scripted the model, for a verb that no script answers."""
        if scripts := current_settings().scripted_models:
            from deepserve._scripted_requests import ScriptedRequests

            if ScriptedRequests(scripts, self.name, lambda: self.to_pods).is_scripted:
                only = "a script answers generate, chat, stream and agents only"
                raise ModelError(f"{verb}: the test has scripted model {self.name!r}, and {only}")

    @cached_property
    def to_pods(self) -> ClientRequests:
        """Requests that no script of a test answers."""
        return ClientRequests(*self.definitions(), self._timeout_s)

    @property
    def generate(self) -> GenerateVerb:
        """`llm.generate(prompt, max_tokens=..., temperature=..., ...) -> str`: the text that follows `prompt` as it is.

        With `n=` or `logprobs=` the text is a `GeneratedText`, which has `.choices` (all n texts), `.logprobs`,
        `.finish_reason` and `.usage`. `await llm.generate.aio(...)` on an event loop. Options: see `Answers`.
        """
        return GenerateVerb(self)

    @property
    def chat(self) -> ChatVerb:
        """`llm.chat(messages | text, output_type=..., tools=[...], max_tokens=...) -> ChatResult`.

        messages: in OpenAI's shape; text is one user message. output_type: the answer is held to this type's JSON
        schema while it is generated and `.output` is a value of it (nothing is added to the prompt); one that ends at
        max_tokens raises OutputTruncated. tools: tools, functions or OpenAI's dicts; `.tool_calls` says what the model
        wants called, and `deepserve.tool` objects are callable: `add(**add.checked_arguments(call.arguments))`.
        `deepserve.Agent` does that in a loop. context: of `llm.cache`, which the messages continue; one that is unknown
        or has expired raises UnknownContextError. `n=`: `.choices` has all answers; `logprobs=`: `.logprobs` tells of
        each token. `await llm.chat.aio(...)` on an event loop. Options: see `Answers`.
        """
        return ChatVerb(self)

    @property
    def stream(self) -> StreamVerb:
        """`for piece in llm.stream(messages | text, max_tokens=...)`: the answer's text as it is generated.

        context: as in `chat`. Leaving the loop early cancels the request. `async for piece in llm.stream.aio(...)` on
        an event loop.
        """
        return StreamVerb(self)

    @property
    def embed(self) -> EmbedVerb:
        """`llm.embed(["a", "b"]) -> list of vectors`, in the order of the texts; one text gives a list of one.

        Of embedding models (BERT and its kin, folders of sentence-transformers) as their folder says, of others the
        state behind the last token, of length 1. truncate=True cuts texts that are too long. Raises PromptTooLongError
        and ModelError, which say which text is at fault. `await llm.embed.aio(...)` on an event loop.
        """
        return EmbedVerb(self)

    @property
    def cache(self) -> CacheVerb:
        """`llm.cache(messages | text, ttl=600, tools=[...]) -> ContextId`: keep a prompt's start for later chats.

        `llm.chat(messages, context=...)` continues it, as if all messages stood in one list. Its KV is computed now,
        and pinned as far as the engine's memory allows; any pod can serve it. It lives until nobody has used it for
        `ttl` seconds, until `context.delete()`, or to the end of `with llm.cache(...) as context:`. A controller with a
        state folder has it again after a restart. `context.extend(ttl)` gives it more time. context: another one, which
        these messages continue; the new one has both. `llm.cache.list()` tells what there is, `llm.cache.extend` and
        `llm.cache.delete` take ids that came as texts. Raises PromptTooLongError, UnknownContextError.
        `await llm.cache.aio(...)` on an event loop. (DeepServe: explicit context caching.)
        """
        return CacheVerb(self)

    @property
    def openai(self) -> OpenAIVerb:
        """`llm.openai() -> openai.OpenAI`, bound to this model: `client.chat.completions.create(messages=[...])`.

        It speaks to the controller over HTTP on this machine, with a key that is good while this process is connected.
        `llm.openai.aio() -> openai.AsyncOpenAI`. Options are those of the clients. Raises MissingPackage without the
        package `openai`.
        """
        return OpenAIVerb(self)

    def _check_choice(self, option: str, value: Any, choices: Sequence[str | None]) -> None:
        is_one = (value is None or isinstance(value, str)) and value in choices
        self._check(option, value, is_one, f" (one of {', '.join(map(str, choices))})")

    def _check(self, option: str, value: Any, is_valid: bool, choices: str = "") -> None:
        if not is_valid or isinstance(value, bool):
            raise InvalidOption(f"Model {self.name!r}: {option}={value!r} is not valid{choices}")

    def _with_source(self, model: ModelSpec) -> ModelSpec:
        return msgspec.structs.replace(model, source=self.source)


def _no_option(name: str, unknown: str) -> InvalidOption:
    """Naming what may have been meant, and all there are."""
    import difflib  # few need it

    options = [*(Model.__init__.__kwdefaults__ or {})]
    nearest = difflib.get_close_matches(unknown, options, n=1)
    meant = f" (perhaps {nearest[0]})" if nearest else ""
    if unknown == "timeout":
        meant = " (llm.with_options(timeout=...) limits its requests)"
    return InvalidOption(f"Model {name!r}: there is no option {unknown!r}{meant}; there are {', '.join(options)}")


def _definition(spec: FunctionSpec, is_found: bool) -> Definition:
    return Definition(function_id(spec), spec, None, spec.label, is_found=is_found)
