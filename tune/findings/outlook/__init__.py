"""Whether further trials of a study are expected to improve its recommendation."""
