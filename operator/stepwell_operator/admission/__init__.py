"""The validating webhook: what `stepwell validate` says, said by the API server at apply.

No security rule lives only here (failurePolicy is Ignore); the same checks run again when a Workflow is synced.
"""
