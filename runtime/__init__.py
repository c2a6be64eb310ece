"""What every process shares: settings, composition, error codes, health, metrics, logs."""
