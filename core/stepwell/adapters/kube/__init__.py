"""Kubernetes: Secrets, namespaces' allowances, token and access reviews."""
