"""Documents are done as they say."""
