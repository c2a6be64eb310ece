"""The live projector: reads the log, folds batches and applies them to the read tables."""
