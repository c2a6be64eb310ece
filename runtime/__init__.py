"""What every process shares: settings, wiring, error codes, health, metrics, logs, tracing."""

VERSION = "0.1.0"
"""The version of Annals."""
