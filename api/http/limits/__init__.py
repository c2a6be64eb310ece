"""Limits on what a key, workspace or client address may ask of this process; allowed hosts."""
