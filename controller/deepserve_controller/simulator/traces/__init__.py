"""Traces of real services, as samples: when requests came, how long prompts and answers were.

`azure_llm_2023_conv.csv.gz`, `azure_llm_2023_code.csv.gz`: the first 20 minutes of the Azure LLM inference traces 2023
(github.com/Azure/AzurePublicDataset, Creative Commons Attribution 4.0; Patel et al., "Splitwise: Efficient generative
LLM inference using phase splitting", ISCA 2024). Changed: cut off, times relative to the first request, columns
renamed.
"""

from __future__ import annotations

import csv
import gzip
from importlib.resources import files
from typing import NamedTuple


class TraceRow(NamedTuple):
    arrival_s: float
    input_tokens: int
    output_tokens: int


def read_trace(name: str, end_s: float = float("inf"), rate: float = 1.0) -> list[TraceRow]:
    """Requests of the sample `name` that come before `end_s`, in order, `rate` times as fast. FileNotFoundError."""
    data = files(__name__).joinpath(f"{name}.csv.gz").read_bytes()
    rows = csv.DictReader(gzip.decompress(data).decode().splitlines())
    found = [TraceRow(float(r["arrival_s"]) / rate, int(r["input_tokens"]), int(r["output_tokens"])) for r in rows]
    return [row for row in found if row.arrival_s < end_s]
