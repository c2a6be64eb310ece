"""The sender process: runs the process managers, their commands, and the sending of messages."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

import psycopg
from eventsourcing.persistence import PersistenceError
from psycopg_pool import PoolTimeout

from commands.delivery.gateway import SmsGateway
from commands.delivery.inbox import handle_next_batch, register_processes
from commands.delivery.outbox import DELETE_ENDED, Outbox, command_handlers
from commands.delivery.sending import RetryPolicy, SmsDelivery
from commands.entities import EntityCommands
from commands.process import Process
from commands.processes import PROCESSES
from commands.sms import SmsCommands
from domain.shared.breaker import Limits
from eventlog.clock import DatabaseClock
from eventlog.connections import Connection, follow_connection, write_pool
from eventlog.hints import APPENDED, Hinter, wait_for_hint
from eventlog.retries import retry_until_stopped, seldom
from eventlog.store.log import EventLog
from runtime.composition import new_id, sms_limits
from runtime.gateways import gateway_of
from runtime.logs import configure_logging
from runtime.process import stopped_by_signals
from runtime.settings import Settings

log = logging.getLogger("annals.sender")

RETRY_DELAY_S = 0.5
LEASE_MARGIN_S = 5.0
FORGET_INTERVAL_S = 60.0
STUCK_PAUSE_S = 5.0
"""Pause before a process manager that raised receives the same event again."""
DATABASE_FAILURES = (psycopg.Error, PersistenceError, PoolTimeout)


class Sender:
    """One thread for the process managers and their commands, and several for the gateway.

    Any number of senders may run; they share the work by row locks.
    """

    def __init__(
        self,
        settings: Settings,
        gateway: SmsGateway,
        processes: Iterable[Process[Any]] = tuple(PROCESSES.values()),
    ) -> None:
        if settings.sender_url is None:
            raise LookupError("ANNALS_SENDER_URL is not set")
        self._url = settings.sender_url
        self._settings = settings
        self._gateway = gateway
        self._processes = tuple(processes)
        self._stuck_until_s: dict[str, float] = {}
        self._stopped = threading.Event()
        self._report = seldom(_log_failure)
        self._maybe_pending = threading.Event()
        """Set when there may be a message to send."""

    def stop(self) -> None:
        """Finish the current work and return from `run`."""
        self._stopped.set()
        self._maybe_pending.set()

    def run(self) -> None:
        """Work until stopped. If the database is lost, log a warning and try again."""
        hinter = Hinter(self._url)
        with (
            write_pool(self._url, max_size=self._settings.sms_threads + 1) as pool,
            closing(DatabaseClock(pool)) as clock,
        ):
            events = EventLog(pool, after_append=hinter.hint)
            entities = EntityCommands(events, clock=clock.now, new_id=new_id)
            sms = SmsCommands(events, entities, clock=clock.now, limits=sms_limits(self._settings))
            outbox = Outbox(events, command_handlers(sms))
            sending = SmsDelivery(events, sms, pool, self._gateway, retry_policy(self._settings))
            work: list[Callable[[], None]] = [lambda: self._follow(outbox)]
            work += [lambda: self._send(sending)] * self._settings.sms_threads
            threads = [threading.Thread(target=self._keep_running, args=(each,)) for each in work]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        hinter.close()

    def _keep_running(self, work: Callable[[], None]) -> None:
        """Restart the work after any error: one message or event must not end the process."""
        retry_until_stopped(
            work,
            self._stopped,
            errors=(Exception,),
            delay_s=RETRY_DELAY_S,
            on_error=self._report,
        )

    def _follow(self, outbox: Outbox) -> None:
        with follow_connection(self._url, application_name="annals-send") as connection:
            connection.execute(f"LISTEN {APPENDED}")
            register_processes(connection, self._processes)
            forgot_at = -FORGET_INTERVAL_S
            while not self._stopped.is_set():
                if time.monotonic() - forgot_at >= FORGET_INTERVAL_S:
                    forgot_at = time.monotonic()
                    connection.execute(DELETE_ENDED)
                more = [self._react(connection, process) for process in self._processes]
                self._maybe_pending.set()
                if not outbox.run_next(connection) and not any(more):
                    wait_for_hint(connection, self._settings.poll_interval_ms / 1000)

    def _react(self, connection: Connection, process: Process[Any]) -> bool:
        """Let a process manager react. One that raises stays at its event; the others continue."""
        if time.monotonic() < self._stuck_until_s.get(process.name, 0.0):
            return False
        try:
            return handle_next_batch(connection, process)
        except DATABASE_FAILURES:
            raise
        except Exception:
            log.exception("process %s is stuck at an event", process.name)
            self._stuck_until_s[process.name] = time.monotonic() + STUCK_PAUSE_S
            return False

    def _send(self, sending: SmsDelivery) -> None:
        while not self._stopped.is_set():
            if not sending.send_next():
                self._maybe_pending.wait(self._settings.poll_interval_ms / 1000)
                self._maybe_pending.clear()


def _log_failure(error: BaseException) -> None:
    if isinstance(error, DATABASE_FAILURES):
        log.warning("sending stopped and is retried: %s", error)
    else:
        log.error("sending failed and is retried", exc_info=error)


def run_sender(settings: Settings) -> None:
    """Send until SIGTERM or SIGINT. Attempts that have begun are completed.

    Raises `GatewaySettingsError`, and `LookupError` if ANNALS_SENDER_URL is not set.
    """
    configure_logging(settings, "sender")
    sender = Sender(settings, gateway_of(settings))
    with stopped_by_signals(sender.stop):
        log.info("sending by %s for %s", settings.sms_gateway, ", ".join(PROCESSES))
        sender.run()


def retry_policy(settings: Settings) -> RetryPolicy:
    """Return the number of attempts for a message and the pauses between them."""
    lease_s = settings.sms_timeout_s + LEASE_MARGIN_S
    return RetryPolicy(
        attempts_max=settings.sms_attempts_max,
        backoff_first_s=settings.sms_backoff_first_s,
        backoff_max_s=settings.sms_backoff_max_s,
        jitter_s=settings.sms_backoff_first_s / 2,
        lease_s=lease_s,
        expire_s=settings.sms_expire_s,
        breaker=Limits(probe_s=lease_s),
    )
