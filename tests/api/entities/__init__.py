"""Tests of the routes that every kind of entity has."""
