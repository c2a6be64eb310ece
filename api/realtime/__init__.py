"""Changes as they happen: one reader of the log per process serves all its subscribers."""
