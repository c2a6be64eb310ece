"""The engine: installs, updates, checks and rebuilds the read tables of the projections."""
