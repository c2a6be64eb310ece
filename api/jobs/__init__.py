"""Jobs and imports as the API shows them."""
