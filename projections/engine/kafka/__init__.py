"""The projector that consumes the log from Kafka."""
