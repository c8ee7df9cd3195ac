"""Serve Prometheus metrics and `/healthz`."""
