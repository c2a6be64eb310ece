"""The state of a running system: checkpoints of the projections, and data for health checks."""
