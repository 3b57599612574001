"""The worker: a process that claims runs and executes their steps."""
