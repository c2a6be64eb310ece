"""From events to the outside world.

inbox.py      process managers follow the log and issue commands
outbox.py     runs the commands that concern the log alone
sending.py    hands text messages to the gateway
breakers.py   the circuit breaker of the gateway
gateway.py    the interface of an SMS gateway
"""
