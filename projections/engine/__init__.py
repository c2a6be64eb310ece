"""The engine: folds changes, applies them in sets, keeps checkpoints."""
