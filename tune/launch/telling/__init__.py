"""Whoever wants to know is told that a study or a comparison has ended."""
