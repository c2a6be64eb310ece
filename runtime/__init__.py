"""What every process shares: settings, wiring, error codes, health, metrics, logs, tracing."""
