"""A gateway as the command line's counterpart: where it is, its API, and runs read over it."""
