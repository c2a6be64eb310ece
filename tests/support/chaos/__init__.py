"""Seeded chaos: random commands, random faults, and a checker that knows nothing of the engine.

- operations: what clients do, as data drawn from a seed; clients: the processes that do it.
- journal: the file in which each client records what it sent and what was answered.
- checker: the rules by which journals and log are compared. Pure.
- database_checks: the same for the database: read tables, coverage ledger, parked entities.
- fault_plan: what breaks and when, as data drawn from a seed; system: the processes that break.
- projection_faults, projector: projections that fail for some entities for a while.
- trial: runs a plan against a system, waits until it has recovered, then checks it.
"""
