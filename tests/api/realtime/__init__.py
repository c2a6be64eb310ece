"""Tests of realtime subscriptions."""
