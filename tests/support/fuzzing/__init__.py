"""Requests that schemathesis generates from the OpenAPI document, and its checks of responses.

`.venv/bin/python -m tests.support.fuzzing` generates many (docs/clients.md), the suite a few.
"""
