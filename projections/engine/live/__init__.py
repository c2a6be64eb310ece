"""The live projector: it reads the log, folds batches and applies them in sets."""
