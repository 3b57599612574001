"""Links to approvals: a page that changes nothing, and the form on it that decides, once."""
