"""Webhooks: who may start a run, with what, and what they are answered."""
