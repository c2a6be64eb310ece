"""The store of events: append events, load entities, claim times."""
