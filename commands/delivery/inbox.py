"""Process managers follow the log: position, states and commands change in one transaction.

One sender at a time handles the events of a process, for the duration of one transaction. Each
event is handled exactly once. If a process raises on an event, it stops at that event, because
skipping the event would lose the commands it should cause.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import orjson

from commands.process import Command, Process, command_id
from eventlog.connections import Connection
from eventlog.reading import RecordedEvent, read_after, readable_position

BATCH_EVENTS = 500

# A new process starts at the end of the log: past events cause no commands.
INSERT_INBOX = """
INSERT INTO process_inboxes (process, position) VALUES (%s, %s) ON CONFLICT DO NOTHING
"""
# Lock the inbox until the end of the transaction, unless another sender has locked it.
LOCK_INBOX = "SELECT position FROM process_inboxes WHERE process = %s FOR UPDATE SKIP LOCKED"
ADVANCE_INBOX = """
UPDATE process_inboxes SET position = %s, updated_at = clock_timestamp() WHERE process = %s
"""
SELECT_STATES = """
SELECT workspace_id, key, state FROM process_states
 WHERE process = %(process)s AND (workspace_id, key) IN (
       SELECT w, k FROM unnest(%(workspaces)s::uuid[], %(keys)s::text[]) AS asked (w, k))
"""
UPSERT_STATE = """
INSERT INTO process_states (workspace_id, process, key, state) VALUES (%s, %s, %s, %s)
ON CONFLICT (workspace_id, process, key) DO UPDATE SET state = EXCLUDED.state
"""
DELETE_STATE = "DELETE FROM process_states WHERE workspace_id = %s AND process = %s AND key = %s"
INSERT_COMMAND = """
INSERT INTO process_commands (id, workspace_id, process, position, name, data, metadata)
VALUES (%s, %s, %s, %s, %s, %s, %s)
"""

StateKey = tuple[str, str]
"""Workspace, and the process's key for a state."""


def register_processes(connection: Connection, processes: Iterable[Process[Any]]) -> None:
    """Create the inboxes of new processes, at the end of the log."""
    end = readable_position(connection)
    for process in processes:
        connection.execute(INSERT_INBOX, (process.name, end))


def handle_next_batch(
    connection: Connection, process: Process[Any], limit: int = BATCH_EVENTS
) -> bool:
    """Have the process react to its next events; return whether more are waiting.

    Returns False if another sender handles the process. Raises what the process raises; the
    transaction is then rolled back.
    """
    with connection.transaction():
        row = connection.execute(LOCK_INBOX, (process.name,)).fetchone()
        if row is None:
            return False
        page = read_after(connection, row[0], limit)
        if page.upto == row[0]:
            return False
        events = [event for event in page.events if event.topic in process.topics]
        if events:
            _react(connection, process, events)
        connection.execute(ADVANCE_INBOX, (page.upto, process.name))
    return page.more


def _react(connection: Connection, process: Process[Any], events: list[RecordedEvent]) -> None:
    keys = [(event.workspace_id, process.key(event)) for event in events]
    before = _load_states(connection, process, keys)
    after: dict[StateKey, Any] = dict(before)
    with connection.pipeline():
        for key, event in zip(keys, events, strict=True):
            after[key], commands = process.react(after.get(key), event)
            _save_commands(connection, process, event, commands)
        _save_states(connection, process, before, after)


def _load_states(
    connection: Connection, process: Process[Any], keys: list[StateKey]
) -> dict[StateKey, Any]:
    workspaces, process_keys = zip(*keys, strict=True)
    parameters = {
        "process": process.name,
        "workspaces": list(workspaces),
        "keys": list(process_keys),
    }
    rows = connection.execute(SELECT_STATES, parameters)
    return {(row[0], row[1]): process.state_type(**orjson.loads(row[2])) for row in rows}


def _save_states(
    connection: Connection,
    process: Process[Any],
    before: Mapping[StateKey, Any],
    after: Mapping[StateKey, Any],
) -> None:
    for key, state in after.items():
        workspace, process_key = key
        if state is None and key in before:
            connection.execute(DELETE_STATE, (workspace, process.name, process_key))
        elif state is not None and state != before.get(key):
            content = orjson.dumps(asdict(state)).decode()
            connection.execute(UPSERT_STATE, (workspace, process.name, process_key, content))


def _save_commands(
    connection: Connection,
    process: Process[Any],
    event: RecordedEvent,
    commands: Iterable[Command],
) -> None:
    """Add the commands to the outbox, with the correlation and causation ids of the event."""
    event_metadata = orjson.loads(event.metadata)
    cause = event_metadata.get("commandId") or f"event-{event.position}"
    metadata = {"correlationId": event_metadata.get("correlationId") or cause, "causationId": cause}
    for number, command in enumerate(commands):
        connection.execute(
            INSERT_COMMAND,
            (
                command_id(process.name, event, number),
                event.workspace_id,
                process.name,
                event.position,
                command.name,
                orjson.dumps(dict(command.data)).decode(),
                orjson.dumps(metadata).decode(),
            ),
        )
