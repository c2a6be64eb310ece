"""The base of the aggregates, their field types, refusals, and the registry of kinds."""
