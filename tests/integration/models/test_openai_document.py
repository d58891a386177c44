"""The OpenAPI document says what the API does: requests made from it, good ones and bad ones, on real pods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import deepserve

schemathesis = pytest.importorskip("schemathesis", reason="pip install schemathesis")
pytest.importorskip("openai")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402


@pytest.fixture(scope="module")
def client(llm: deepserve.Model) -> Iterator[Any]:
    with llm.openai(max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def document(client: Any) -> Any:
    return schemathesis.openapi.from_url(f"{str(client.base_url).rstrip('/')}/openapi.json")


PATHS = [
    ("/models", "GET"),
    ("/models/{name}", "GET"),
    ("/tokenize", "POST"),
    ("/detokenize", "POST"),
    ("/completions", "POST"),
    ("/chat/completions", "POST"),
    ("/responses", "POST"),
    ("/embeddings", "POST"),
    ("/contexts", "GET"),
    ("/contexts", "POST"),
    ("/contexts/{context_id}", "GET"),
    ("/contexts/{context_id}", "POST"),
    ("/contexts/{context_id}", "DELETE"),
]


def test_all_paths_are_tried(document: Any) -> None:
    told = document.raw_schema["paths"].items()
    assert set(PATHS) == {(path, method.upper()) for path, operations in told for method in operations}


@pytest.mark.parametrize(("path", "method"), PATHS)
def test_answers_are_as_the_document_says(document: Any, client: Any, path: str, method: str) -> None:
    operation = document[path][method]

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy())
    def run(case: Any) -> None:
        if isinstance(case.body, dict):  # known, and soon over
            case.body = {**case.body, "model": "tiny"}
            for limit in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
                if isinstance(case.body.get(limit), int):
                    case.body[limit] = min(case.body[limit], 4)
        response = case.call(headers={"Authorization": f"Bearer {client.api_key}"})
        assert response.status_code < 500, response.text
        # What is refused is more than a schema can say: roles that do not follow, tools that are not there.
        case.validate_response(response, excluded_checks=[positive_data_acceptance])

    run()
