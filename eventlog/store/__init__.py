"""The store of events: append, load, claim times."""
