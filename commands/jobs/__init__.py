"""Jobs: work that goes on after the request was answered. See docs/adr/0010-jobs.md.

work.py      what a kind of work has to do: one bounded step within an open transaction
requests.py  ask for a job, cancel it
keeping.py   what is kept beside a job's events: its items, its errors, that it is open
turns.py     a claimed job is taken some steps further
worker.py    the process that claims jobs
"""
