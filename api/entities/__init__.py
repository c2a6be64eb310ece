"""The routes that every kind of entity has."""
