"""Tests of authentication, request bodies, problem documents and the description of the API."""
