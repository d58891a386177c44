"""The OpenAPI document of `/v1`."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def openapi_document() -> Schema:
    """What is promised to clients; further fields of OpenAI's and vLLM's API are taken too (see the guide)."""
    answers = {
        "/chat/completions": ("Answer a conversation", _chat_request(), "chat.completion"),
        "/completions": ("Go on with a text", _completion_request(), "text_completion"),
    }
    paths: Schema = {
        path: {"post": _operation(summary, asked, _generated(kind))} for path, (summary, asked, kind) in answers.items()
    }
    paths["/responses"] = {"post": _operation("Answer an input", _response_request(), _response())}
    paths["/embeddings"] = {"post": _operation("Texts to vectors", _embedding_request(), _embeddings())}
    paths["/tokenize"] = {"post": _operation("Count and show tokens", _tokenize_request(), _tokens())}
    paths["/detokenize"] = {"post": _operation("Token ids to text", _detokenize_request(), _prompt())}
    paths["/models"] = {"get": _question("Models that the key may use", _list_of(_model()))}
    paths["/contexts"] = {
        "get": _question("Contexts of models that the key may use", _list_of(_context())),
        "post": _operation("Keep the start of chats", _context_request(), _context()),
    }
    context_id = {"name": "context_id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    paths["/contexts/{context_id}"] = {
        "get": {**_question("One context", _context()), "parameters": [context_id]},
        "post": {**_operation("Let it live longer", _extension(), _context()), "parameters": [context_id]},
        "delete": {**_question("Forget a context", _deleted()), "parameters": [context_id]},
    }
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    paths["/models/{name}"] = {"get": {**_question("One model", _model()), "parameters": [name]}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "DeepServe", "version": "1"},
        "servers": [{"url": "/v1"}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": _error()},
        },
    }


def _operation(summary: str, asked: Schema, answered: Schema) -> Schema:
    content = {"application/json": {"schema": asked}}
    return {**_question(summary, answered), "requestBody": {"required": True, "content": content}}


def _question(summary: str, answered: Schema) -> Schema:
    fault = {"description": "Why not", "content": {"application/json": {"schema": _reference("Error")}}}
    content: Schema = {"application/json": {"schema": answered}}
    if {"choices", "output"} & set(answered["properties"]):
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return {"summary": summary, "responses": {"200": {"description": "OK", "content": content}, "default": fault}}


def _chat_request() -> Schema:
    message = _object({"role": _one_of("system", "developer", "user", "assistant", "tool"), "content": {}}, "role")
    function = _object({"name": _text(), "description": _text(), "parameters": {"type": "object"}}, "name")
    tool = _object({"type": _one_of("function"), "function": function}, "type", "function")
    response_format = _object(
        {"type": _one_of("text", "json_object", "json_schema"), "json_schema": {"type": "object"}}, "type"
    )
    own = {
        "messages": {"type": "array", "items": message, "minItems": 1},
        "max_completion_tokens": _count(),
        "tools": {"type": "array", "items": tool},
        "tool_choice": {"anyOf": [_one_of("auto", "none", "required"), {"type": "object"}]},
        "parallel_tool_calls": {"type": "boolean"},
        "response_format": response_format,
        "logprobs": {"type": "boolean"},
        "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
        "context_id": _text(),
    }
    return _object({**_sampling(), **own}, "model", "messages")


def _context_request() -> Schema:
    message = _object({"role": _one_of("user", "assistant"), "content": _text()}, "role", "content")
    messages = {"type": "array", "items": message, "minItems": 1}
    fields = {"model": _text(), "messages": messages, "ttl": _ttl(), "context_id": _text()}
    return _object(fields, "model", "messages")


def _extension() -> Schema:
    return _object({"ttl": _ttl()}, "ttl")


def _ttl() -> Schema:
    return {"type": "number", "exclusiveMinimum": 0, "maximum": 2592000}


def _context() -> Schema:
    fields = {"id": _text(), "object": {"const": "context"}, "model": _text(), "num_tokens": _count(), "ttl": {}}
    fields |= {"created": _count(), "expires_in": {"type": "number"}}
    return _object(fields, *fields)


def _deleted() -> Schema:
    return _object({"id": _text(), "object": {"const": "context.deleted"}, "deleted": {"const": True}}, "id")


def _completion_request() -> Schema:
    own = {"prompt": _prompts(), "echo": {"type": "boolean"}, "logprobs": {"type": "integer", "minimum": 0}}
    return _object({**_sampling(), **own}, "model", "prompt")


def _response_request() -> Schema:
    tool = _object({"type": _one_of("function"), "name": _text(), "parameters": {"type": "object"}}, "type", "name")
    item = _object({"role": _one_of("system", "developer", "user", "assistant"), "content": _text()}, "role", "content")
    form = _object({"type": _one_of("text", "json_object", "json_schema"), "schema": {"type": "object"}}, "type")
    fields = {
        "model": _text(),
        "input": {"anyOf": [_text(), {"type": "array", "items": item, "minItems": 1}]},
        "instructions": _text(),
        "max_output_tokens": _count(),
        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "tools": {"type": "array", "items": tool},
        "tool_choice": {"anyOf": [_one_of("auto", "none", "required"), {"type": "object"}]},
        "text": _object({"format": form}),
        "include": {"type": "array", "items": _text()},
        "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
        "stream": {"type": "boolean"},
    }
    return _object(fields, "model", "input")


def _response() -> Schema:
    output = {"type": "array", "items": _object({"id": _text(), "type": _text()}, "id", "type")}
    status = _one_of("completed", "incomplete")
    return _object({"id": _text(), "object": {"const": "response"}, "status": status, "output": output}, "id", "output")


def _embedding_request() -> Schema:
    text: Schema = {"type": "string", "minLength": 1}
    ids: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
    several = [{"type": "array", "items": each, "minItems": 1, "maxItems": 2048} for each in (text, ids)]
    own = {
        "encoding_format": _one_of("float", "base64"),
        "dimensions": _count(),
        "truncate_prompt_tokens": {"const": -1},
    }
    return _object({"model": _text(), "input": {"anyOf": [text, ids, *several]}, **own}, "model", "input")


def _embeddings() -> Schema:
    vector = {"anyOf": [{"type": "array", "items": {"type": "number"}}, _text()]}
    data = {"type": "array", "items": _object({"index": _count(0), "embedding": vector}, "index", "embedding")}
    usage = _object({"prompt_tokens": _count(0), "total_tokens": _count(0)}, "prompt_tokens", "total_tokens")
    fields = {"object": {"const": "list"}, "data": data, "model": _text(), "usage": usage}
    return _object(fields, "object", "data", "model", "usage")


def _prompts() -> Schema:
    ids = {"type": "array", "items": {"type": "integer", "minimum": 0}}
    return {"anyOf": [_text(), {"type": "array", "items": _text()}, ids, {"type": "array", "items": ids}]}


def _sampling() -> Schema:
    return {
        "model": _text(),
        "max_tokens": _count(),
        "n": {"type": "integer", "minimum": 1, "maximum": 128},
        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "seed": {"type": "integer"},
        "stop": {"anyOf": [_text(), {"type": "array", "items": _text(), "maxItems": 4}]},
        "presence_penalty": {"type": "number", "minimum": -2, "maximum": 2},
        "frequency_penalty": {"type": "number", "minimum": -2, "maximum": 2},
        "stream": {"type": "boolean"},
        "stream_options": _object({"include_usage": {"type": "boolean"}}),
    }


def _tokenize_request() -> Schema:
    messages = {"type": "array", "items": {"type": "object"}, "minItems": 1}
    return _object({"model": _text(), "prompt": _text(), "messages": messages}, "model")


def _detokenize_request() -> Schema:
    tokens = {"type": "array", "items": {"type": "integer", "minimum": 0}}
    return _object({"model": _text(), "tokens": tokens}, "model", "tokens")


def _generated(kind: str) -> Schema:
    choice = _object({"index": _count(0), "finish_reason": {"type": ["string", "null"]}}, "index", "finish_reason")
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    usage = _object({name: _count(0) for name in names}, *names)
    fields = {
        "id": _text(),
        "object": {"const": kind},
        "created": _count(0),
        "model": _text(),
        "choices": {"type": "array", "items": choice, "minItems": 1},
        "usage": usage,
    }
    return _object(fields, *fields)


def _tokens() -> Schema:
    fields = {"count": _count(0), "max_model_len": _count(), "tokens": {"type": "array", "items": _count(0)}}
    return _object(fields, *fields)


def _prompt() -> Schema:
    return _object({"prompt": _text()}, "prompt")


def _model() -> Schema:
    fields = {"id": _text(), "object": {"const": "model"}, "created": _count(0), "owned_by": _text()}
    return _object(fields, *fields)


def _list_of(item: Schema) -> Schema:
    return _object({"object": {"const": "list"}, "data": {"type": "array", "items": item}}, "object", "data")


def _error() -> Schema:
    nullable = {"type": ["string", "null"]}
    details = _object({"message": _text(), "type": _text(), "param": nullable, "code": nullable}, "message", "type")
    return _object({"error": details}, "error")


def _object(properties: Schema, *required: str) -> Schema:
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}


def _text() -> Schema:
    return {"type": "string"}


def _count(least: int = 1) -> Schema:
    return {"type": "integer", "minimum": least}


def _one_of(*words: str) -> Schema:
    return {"type": "string", "enum": list(words)}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
