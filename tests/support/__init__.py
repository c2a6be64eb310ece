"""Helpers of the tests: servers, worlds, oracles. No test stands here."""
