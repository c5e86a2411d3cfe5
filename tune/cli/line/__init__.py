"""How a command line is read: options given once, and what Tab completes."""
