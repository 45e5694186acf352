"""Many inputs: workers, progress, failures, resuming; and the commands that take them."""
