"""What leaves the log for the outside: inbox, outbox, sending, circuit breaker."""
