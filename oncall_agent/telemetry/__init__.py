"""What the daemon says of itself: the log, the metrics, and the catalogue of both."""
