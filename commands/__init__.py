"""Command models and handlers: what may change the log, and under which rules."""
