"""Dependencies of routes: the shared services, the caller, idempotency, and their types."""
