"""Everything FlowServe raises on purpose, as one tree.

    FlowServeError
    ├── ModelNotFoundError          no such folder, not a model folder, or a hub id that could not be fetched
    ├── UnsupportedModelError       the folder is fine, this engine cannot run it
    │   └── UnsupportedArchitectureError
    ├── CheckpointError             a file of the folder is truncated, malformed or lacks something
    │   └── CheckpointChangedError  a file of the folder is another than the one that was loaded
    ├── LoadingError                the bytes of a model did not come to where they are computed with
    ├── TokenizerError              tokenizer.json is missing or unusable
    ├── ChatTemplateError           no chat template, a broken one, or messages it refuses
    ├── MissingPackageError         also an ImportError: what the extra `flowserve` installs is not there
    ├── KernelsUnavailableError     the CPU kernels cannot be compiled or loaded, and no other back end was allowed
    ├── EngineAsleepError           the engine sleeps: it takes no requests and makes no steps
    ├── EngineBusyError             sequences still go on, and what was asked for would end them
    ├── StepLogError                a step log or cost model that cannot be opened, read, fitted or saved
    ├── AddressError                the server cannot listen there: the port is taken, no such host, no right to it
    ├── InvalidConfigError          options of a wrong type, or that contradict each other or the model
    ├── InvalidRequestError         the request is at fault: the engine goes on with all others
    │   ├── InvalidSamplingParamsError
    │   ├── InvalidGrammarError     a schema, regex, choice or grammar that cannot be compiled
    │   ├── InvalidPromptError      empty, or token ids outside the vocabulary
    │   ├── PromptTooLongError
    │   ├── InvalidContextError     a context without id or tokens, or with an impossible time to live
    │   └── UnknownContextError     a context id that never was, was deleted or has expired
    ├── UnknownSequenceError        an id that the engine does not hold
    │   └── SequenceExistsError     an id that it holds already
    └── EngineClosedError           `close` was called

Each takes one message, so each survives pickling between processes.
"""

from __future__ import annotations


class FlowServeError(Exception):
    """Base of all errors of the engine."""


class ModelNotFoundError(FlowServeError):
    """There is no model folder at the given place, or the hub id could not be fetched."""


class UnsupportedModelError(FlowServeError):
    """The model is readable but needs something the engine does not have."""


class UnsupportedArchitectureError(UnsupportedModelError):
    """config.json names an architecture that is not in the registry."""


class CheckpointError(FlowServeError):
    """A file of the model folder is truncated, malformed, or lacks a tensor or field."""


class CheckpointChangedError(CheckpointError):
    """A file of the model folder is another than the one that an engine was loaded from, or is being loaded from."""


class LoadingError(FlowServeError):
    """Weights could not be brought to where they are computed with: a read failed, or who read them was killed."""


class TokenizerError(FlowServeError):
    """tokenizer.json is missing or cannot be used."""


class ChatTemplateError(FlowServeError):
    """The chat template is missing or broken, or refused the messages."""


class MissingPackageError(FlowServeError, ImportError):
    """Packages that every model needs are not installed; the message names them, and the extra that has them."""


class KernelsUnavailableError(FlowServeError):
    """The CPU kernels cannot be compiled or loaded on this machine."""


class EngineAsleepError(FlowServeError):
    """The engine sleeps; `wake` comes first."""


class EngineBusyError(FlowServeError):
    """Sequences still go on, which the message names."""


class StepLogError(FlowServeError):
    """A step log or cost model that cannot be opened, read or saved, or that tells too little."""


class AddressError(FlowServeError):
    """The server cannot listen at an address, which the message names."""


class InvalidConfigError(FlowServeError):
    """Engine options of a wrong type, or that contradict each other, the model or the device."""


class InvalidRequestError(FlowServeError):
    """Base of errors that are the fault of one request."""


class InvalidSamplingParamsError(InvalidRequestError):
    """A sampling parameter out of range."""


class InvalidGrammarError(InvalidRequestError):
    """A JSON schema, regex, choice list or grammar that cannot be compiled."""


class InvalidPromptError(InvalidRequestError):
    """An empty prompt, or token ids outside the vocabulary."""


class PromptTooLongError(InvalidRequestError):
    """The prompt leaves no room for one generated token in the context; or a text is too long to be read."""


class InvalidContextError(InvalidRequestError):
    """A context without an id or without tokens, or with an impossible time to live."""


class UnknownContextError(InvalidRequestError):
    """A context id that never was, was deleted, has expired, or is another tenant's."""


class UnknownSequenceError(FlowServeError):
    """A sequence id that the engine does not hold."""


class SequenceExistsError(UnknownSequenceError):
    """A sequence id that the engine holds already: an id is free again when its sequence has ended."""


class EngineClosedError(FlowServeError):
    """The engine was closed: it takes no sequences and no steps any more."""
