"""Warm-ups that are trained once: what one depends on, where its states are kept, and how a run takes them over."""
