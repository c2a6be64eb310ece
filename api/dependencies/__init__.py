"""What routes are given: the services, the request, the idempotency key."""
