"""Tests of the inbox, the outbox and sending."""
