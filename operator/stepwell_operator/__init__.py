"""The operator: keeps the cluster's resources and the database in step."""
