"""The worker process: runs the jobs of all workspaces."""

from __future__ import annotations

import logging

from commands.jobs.worker import Worker
from runtime.composition import Writing, app_url, open_writing
from runtime.logs import configure_logging
from runtime.process import stopped_by_signals, tune_gc
from runtime.settings import Settings
from runtime.work import job_environment, work_factories

log = logging.getLogger(__name__)


def run_worker(settings: Settings) -> None:
    """Run jobs until SIGTERM or SIGINT. The current step is completed.

    Raises `LookupError` if ANNALS_APP_URL is not set.
    """
    configure_logging(settings, "worker")
    tune_gc()
    with open_writing(settings) as writing:
        worker = open_worker(settings, writing)
        with stopped_by_signals(worker.stop):
            log.info("working on jobs: %s", ", ".join(work_factories()))
            worker.run()


def open_worker(settings: Settings, writing: Writing) -> Worker:
    """Open a worker for all kinds of jobs."""
    environment = job_environment(writing)
    return Worker(app_url(settings), environment)
