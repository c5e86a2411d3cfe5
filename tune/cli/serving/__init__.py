"""Commands that serve pages on this machine: ui, and the live page of a study."""
