"""WorkflowRuns: each starts one run, and shows how it goes."""
