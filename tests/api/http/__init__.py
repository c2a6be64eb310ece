"""Tests of authentication, request bodies, problem documents and the OpenAPI document."""
