"""Helpers for tests: servers, clients, generated data and oracles. Contains no tests."""
