"""The HTTP API: ``/api/v1``, approvals, its description."""
