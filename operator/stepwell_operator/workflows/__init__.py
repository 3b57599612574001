"""Workflow resources: synced into the database, and their status."""
