"""Metrics in the form of Prometheus; docs/metrics.md lists them."""
