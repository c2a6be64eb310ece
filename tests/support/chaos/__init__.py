"""Seeded chaos: random commands, random faults, and a checker that knows nothing of the engine.

- deeds: what clients do, as data made from a seed; clients: the processes that do it.
- history: the journal that each client keeps of what it asked and what it was told.
- checker: what a journal and a log must have to do with each other. Pure.
- verdict: the same of the database: read tables, coverage ledger, parked entities.
- plan: what breaks and when, as data made from a seed; house: the processes that break.
- curse, projector: projections that fail for some entities for a while.
- conductor: plays a plan against a house, then waits until all is quiet, then judges.
"""
