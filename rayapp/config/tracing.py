"""Traces: which requests are followed on their way, and who collects what was seen."""

from typing import Annotated

from pydantic import Field

from rayapp.config.load import Config

CollectorUrl = Annotated[str, Field(pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$")]


class TracingConfig(Config):
    """Spans of sampled requests, sent in the background to a collector of OpenTelemetry."""

    otlp_endpoint: CollectorUrl
    """Base URL of a collector that takes OTLP over HTTP: http://localhost:4318, for one; spans go
    to /v1/traces below it. Headers that it asks for are in OTEL_EXPORTER_OTLP_HEADERS of the
    replicas' environment."""
    sample_share: float = Field(default=0.01, ge=0, le=1)
    """Of requests that come without `traceparent`; where one comes, its sampled flag decides."""
