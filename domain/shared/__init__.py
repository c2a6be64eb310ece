"""What the aggregates share: the entity, its fields, refusals, kinds."""
