"""Executes the commands of one process together, in shared transactions."""
