"""Tests of the limits by key, workspace and client address, and of the allowed hosts."""
