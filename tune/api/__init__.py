"""The Python interface: what the command line can do, as functions."""
