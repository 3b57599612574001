"""The gateway: webhooks and the HTTP API."""
