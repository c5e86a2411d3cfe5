"""The version of the distribution, in the code: an installation from a checkout keeps the number it was made with."""

__version__ = "0.2.1"
"""As in pyproject.toml. Code that gives a configuration other bits has a new one."""
