"""Jobs: long-running work that continues after the request was answered. See docs/adr/0010-jobs.md.

work.py       interface of a kind of work: one bounded step within an open transaction
requests.py   commands that request and cancel a job
job_store.py  tables beside a job's events: open jobs, items, errors
runs.py       one run of a claimed job: some steps, each in one transaction
worker.py     the process that claims jobs and runs them
"""
