"""Studies deleted, packed and moved, and what can go of a home."""
