"""Changes as they happen: one reader of the log for all who follow it through this process."""
