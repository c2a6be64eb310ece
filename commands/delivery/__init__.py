"""Delivery: process managers react to events, and senders run the resulting commands.

inbox.py      process managers follow the log and issue commands
outbox.py     runs the commands that only write to the log
sending.py    hands text messages to the gateway
breakers.py   the circuit breaker of the gateway
gateway.py    the interface of an SMS gateway
"""
