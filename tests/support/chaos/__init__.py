"""Seeded chaos: random commands, random faults, and a checker that shares no code with the engine.

- operations: the operations of clients, drawn from a seed; clients: the processes that run them.
- journal: the file in which each client records its commands and their answers.
- checker: the rules by which journals and log are compared. Pure.
- database_checks: the same for the database: read tables, coverage ledger, parked entities.
- fault_plan: the schedule of faults, drawn from a seed; system: the processes that break.
- projection_faults, projector: projections that fail for some entities for a while.
- trial: runs a plan against a system, waits until it has recovered, then checks it.
"""
