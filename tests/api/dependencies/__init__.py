"""Tests of what routes depend on."""
