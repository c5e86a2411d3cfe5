"""The command `compare`, and what other commands print of a comparison."""
