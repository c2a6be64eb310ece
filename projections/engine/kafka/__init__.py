"""The projector that consumes Kafka."""
