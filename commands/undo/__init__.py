"""Undo of one event or of all events of a command. See docs/adr/0009-undo.md.

commands.py    the commands preview and undo, and their limits
plan.py        decides on the events that undo others, and on conflicts
histories.py   the events of entities with their metadata
work.py        undo of a large command as a job
"""
