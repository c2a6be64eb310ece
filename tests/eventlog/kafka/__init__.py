"""Tests of the relay to Kafka."""
