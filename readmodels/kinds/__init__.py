"""The lists, one module per kind: their items, filters, orders and aggregations."""
