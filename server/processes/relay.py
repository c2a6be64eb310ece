"""The relay process, and the comparison of the log with the topic."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from eventlog.kafka.broker import Broker
from eventlog.kafka.reconcile import ReconcileReport, reconcile
from eventlog.kafka.relay import Relay
from runtime.logs import configure_logging
from runtime.process import stopped_by_signals
from runtime.settings import Settings

log = logging.getLogger(__name__)

FAULTS = {
    "missing": "Missing from the topic",
    "altered": "Altered",
    "unknown": "In the topic and not in the log",
    "misplaced": "Not in the partition of their account",
    "foreign": "Messages not sent by a relay of this log (partition:offset)",
    "doubled": "Doubled, which readers tolerate",
}
"""Description of each kind of fault, in the order in which they are printed."""


def configure_broker(settings: Settings) -> Broker:
    """Return the connection to Kafka that the settings describe."""
    return Broker(
        bootstrap=settings.kafka_bootstrap,
        topic=settings.kafka_topic,
        group=settings.kafka_group,
        session_timeout_ms=settings.kafka_session_timeout_ms,
        security_protocol=settings.kafka_security_protocol,
        sasl_mechanism=settings.kafka_sasl_mechanism,
        sasl_username=settings.kafka_sasl_username,
        sasl_password=settings.kafka_sasl_password,
        ssl_cafile=settings.kafka_ssl_cafile,
    )


def run_relay(settings: Settings, *, recreate: bool, once: bool) -> None:
    """Publish until SIGTERM or SIGINT, or with `once` until the end of the log.

    Raises `TopicRefused` if the topic is not the one that was published to.
    """
    configure_logging(settings, "relay")
    relay = Relay(
        str(settings.projector_url),
        configure_broker(settings),
        partitions=settings.kafka_partitions,
        recreate=recreate,
    )
    with stopped_by_signals(relay.stop):
        log.info("relaying to %s at %s", settings.kafka_topic, settings.kafka_bootstrap)
        relay.run(once=once)


def compare(
    settings: Settings, after: int, progress: Callable[[int, int], None]
) -> ReconcileReport:
    """Compare log and topic after a position. Raises `TopicRefused` and `KafkaError`."""
    url, broker = str(settings.projector_url), configure_broker(settings)
    return reconcile(url, broker, after=after, progress=progress)


def describe(report: ReconcileReport) -> Iterator[str]:
    """Describe a report, with one line for each kind of fault."""
    yield (
        f"Positions {report.after + 1} to {report.upto}: {report.events} events in the log,"
        f" {report.messages} messages in the topic."
    )
    for fault, description in FAULTS.items():
        named = getattr(report, fault)
        if named:
            more = report.counts[fault] - len(named)
            shown = ", ".join(str(each) for each in named) + (f" and {more} more" if more else "")
            yield f"{description}: {shown}."
    yield "Log and topic are equal." if report.is_equal else "Log and topic DIFFER."
