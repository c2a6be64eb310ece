"""Tests of exports over HTTP."""
