"""Jobs and imports as responses and streams show them."""
