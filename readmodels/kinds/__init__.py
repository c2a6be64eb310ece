"""The lists there are, one module each: what an item shows, its filters, orders and counts."""
