"""The jobs of the one leader among the workers; one module a job."""
