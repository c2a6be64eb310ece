"""The log on Kafka: the message, the relay that publishes it, and the reconciliation of both."""
