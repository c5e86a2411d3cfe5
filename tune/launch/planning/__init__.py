"""Parts of what a plan adds up."""
