"""What pools count, for Prometheus, OpenTelemetry, and the tools at the terminal."""
