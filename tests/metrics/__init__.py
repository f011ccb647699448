"""Metrics: Prometheus, OpenTelemetry, the dashboard, and workers that serve them."""
