"""What a server tells Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from retrieval_index.serving.batcher import Batcher, Counts

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Requests by status and their latency, and the counts of a batcher."""

    def __init__(self, batcher: Batcher) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_BatcherCollector(batcher))
        self._requests = Counter(
            "ovd_requests", "Requests answered", ["status"], registry=self._registry
        )
        self._seconds = Histogram(
            "ovd_request_seconds",
            "Time from request to answer",
            buckets=_SECONDS,
            registry=self._registry,
        )

    def observe(self, status: int, seconds: float) -> None:
        self._requests.labels(str(status)).inc()
        self._seconds.observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _BatcherCollector(Collector):
    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher

    def collect(self) -> Iterator[Metric]:
        for field in fields(Counts):
            value = getattr(self._batcher.counts, field.name)
            yield CounterMetricFamily(f"ovd_{field.name}", f"{field.name} so far", value=value)
        yield GaugeMetricFamily("ovd_waiting", "Queries in the queue", value=self._batcher.waiting)
