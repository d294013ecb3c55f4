"""HTTP: translates between requests and calls, decides nothing."""
