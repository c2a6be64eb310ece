"""The log on Kafka: messages, the relay that publishes them, and the reconciliation of both."""
