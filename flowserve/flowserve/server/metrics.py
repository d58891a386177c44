"""Prometheus metrics of one server, under vLLM's names where the meaning is the same.

The registry belongs to the app: two servers in one process do not share counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ..outputs import EngineStats, SequenceOutput

Metric = CounterMetricFamily | GaugeMetricFamily

_LABELS = ("model_name", "engine")
_FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0),
    *(80.0, 160.0, 640.0, 2560.0),
)
_BETWEEN_TOKENS_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_REQUEST_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0),
    *(960.0, 1920.0, 7680.0),
)


class Metrics:
    """Counts what the engine loop reports; a sequence counts as a request, as in vLLM."""

    def __init__(self, model_name: str, max_model_len: int) -> None:
        self._registry = CollectorRegistry()
        self._values = (model_name, "0")
        tokens = tuple(_one_two_five(max_model_len))
        self._prompt_tokens = self._counter("vllm:prompt_tokens", "Prompt tokens of sequences that began.")
        self._generation_tokens = self._counter("vllm:generation_tokens", "Generated tokens.")
        self._first_token_s = self._histogram(
            "vllm:time_to_first_token_seconds", "From arrival to the first token.", _FIRST_TOKEN_S
        )
        self._between_tokens_s = self._histogram(
            "vllm:inter_token_latency_seconds", "Between the tokens of a sequence.", _BETWEEN_TOKENS_S
        )
        self._request_s = self._histogram(
            "vllm:e2e_request_latency_seconds", "From arrival to the last token.", _REQUEST_S
        )
        self._request_prompt_tokens = self._histogram(
            "vllm:request_prompt_tokens", "Prompt tokens of ended sequences.", tokens
        )
        self._request_tokens = self._histogram(
            "vllm:request_generation_tokens", "Generated tokens of ended sequences.", tokens
        )
        self._success = Counter(
            "vllm:request_success", "Ended sequences.", (*_LABELS, "finished_reason"), registry=self._registry
        )
        for reason in ("stop", "length", "abort"):
            self._success.labels(*self._values, reason)
        self._http = Counter(
            "flowserve:http_responses", "HTTP responses.", (*_LABELS, "path", "status"), registry=self._registry
        )

    def watch(self, stats: Callable[[], EngineStats]) -> None:
        """The engine's own counts, read when they are asked for."""
        self._registry.register(_EngineCollector(stats, self._values))

    def output(self, output: SequenceOutput, arrived_s: float, last_s: float | None, now_s: float) -> None:
        """One step's output of one sequence; `last_s`: when the one before it came."""
        num_tokens = len(output.token_ids)
        self._generation_tokens.inc(num_tokens)
        if last_s is not None:
            for _ in range(num_tokens):
                self._between_tokens_s.observe((now_s - last_s) / num_tokens)
        elif num_tokens and output.error is None:  # else it ended before its first one
            self._prompt_tokens.inc(output.num_prompt_tokens)
            self._first_token_s.observe(now_s - arrived_s)
        if output.finished:
            self._request_s.observe(now_s - arrived_s)
            self._request_prompt_tokens.observe(output.num_prompt_tokens)
            self._request_tokens.observe(output.num_output_tokens)
            self.finished(output.finish_reason or "stop", 1)

    def embedded(self, num_texts: int, num_tokens: int, took_s: float) -> None:
        """One request to an encoder."""
        self._prompt_tokens.inc(num_tokens)
        self._request_s.observe(took_s)
        self.finished("stop", num_texts)

    def finished(self, reason: str, num_sequences: int) -> None:
        self._success.labels(*self._values, reason).inc(num_sequences)

    def http_response(self, path: str, status: int) -> None:
        """`path`: a route, not what a client asked for, or the labels would have no bound."""
        self._http.labels(*self._values, path, str(status)).inc()

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, documentation: str) -> Counter:
        return Counter(name, documentation, _LABELS, registry=self._registry).labels(*self._values)

    def _histogram(self, name: str, documentation: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(name, documentation, _LABELS, registry=self._registry, buckets=buckets)
        return histogram.labels(*self._values)


class _EngineCollector(Collector):
    def __init__(self, stats: Callable[[], EngineStats], values: tuple[str, str]) -> None:
        self._stats = stats
        self._values = values

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        used = 1.0 - stats.free_blocks / stats.total_blocks if stats.total_blocks else 0.0
        yield self._gauge("vllm:num_requests_running", "Sequences in the batch.", stats.running)
        yield self._gauge("vllm:num_requests_waiting", "Sequences that wait for room.", stats.waiting)
        yield self._gauge("vllm:kv_cache_usage_perc", "Share of KV blocks in use; 1 = all.", used)
        yield self._count("vllm:num_preemptions", "Preemptions.", stats.num_preemptions)
        yield self._count("vllm:prefix_cache_queries", "Prompt tokens looked up.", stats.prefix_query_tokens)
        yield self._count("vllm:prefix_cache_hits", "Prompt tokens found in the cache.", stats.prefix_hit_tokens)
        yield self._count("vllm:spec_decode_num_draft_tokens", "Tokens guessed.", stats.num_draft_tokens)
        yield self._count("vllm:spec_decode_num_accepted_tokens", "Right guesses.", stats.num_accepted_tokens)
        yield self._count("flowserve:steps", "Steps of the engine.", stats.num_steps)
        yield self._gauge("flowserve:cached_blocks", "KV blocks kept for prompts to come.", stats.cached_blocks)

    def _gauge(self, name: str, documentation: str, value: float) -> GaugeMetricFamily:
        family = GaugeMetricFamily(name, documentation, labels=_LABELS)
        family.add_metric(self._values, value)
        return family

    def _count(self, name: str, documentation: str, value: float) -> CounterMetricFamily:
        family = CounterMetricFamily(name, documentation, labels=_LABELS)
        family.add_metric(self._values, value)
        return family


def _one_two_five(limit: int) -> Iterator[int]:
    """1, 2, 5, 10, 20, 50, ... up to `limit`."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power > limit:
                return
            yield factor * power
        power *= 10
