"""A study's page, served on this machine and drawn again while the study runs."""
