"""Training as one program over runs, and what survives an interruption."""
