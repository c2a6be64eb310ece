"""Running Annals: logs, health, metrics, traces, and jobs on projections."""
