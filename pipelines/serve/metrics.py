"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"vista_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"vista_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"vista_{name}", text, labels, buckets=buckets, registry=registry)

        self.requests = counter("requests", "Answers, by route and HTTP status.", "route", "status")
        self.searches = histogram("search_seconds", "Time from a query's arrival to its results.", SECONDS, "mode")
        self.batches = histogram("batch_queries", "Queries that the encoder got at once.", SIZES)
        self.waiting = gauge("queue_queries", "Queries that wait for the encoder.")
        self.overloads = counter("overloads", "Queries and images that were refused with 503.")
        self.thumbnails = counter("thumbnails", "Thumbnails, by how they were got.", "got")
        self.thumbnail_bytes = gauge("thumbnail_cache_bytes", "Size of the cache of thumbnails.")
        self.version = gauge("published_version", "The version of the table that is served.")
        self.refreshes = counter("refreshes", "Changes to a newly published version, by result.", "result")
        self.last_run = gauge("last_run_timestamp_seconds", "When the last run with a status ended.", "status")
        self.last_status = Info("vista_last_run", "The last run of the table, and its status.", registry=registry)
        self.last_rows = gauge("last_run_rows", "Records of the last run, by what became of them.", "outcome")
        self.gates = gauge("last_run_gate_passed", "1 if a gate let the last run pass, else 0.", "gate")
        self.behind = gauge(
            "source_lag_seconds", "Time since the last run of a source that was published began to read.", "source"
        )

    def text(self) -> bytes:
        """All of them, in Prometheus's text format."""
        return generate_latest(self.registry)
