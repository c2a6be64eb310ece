"""Processes follow the log: position, memory and commands move in one transaction.

One sender at a time works on a process, as long as its transaction lasts; another goes on where it
got to. An event is reacted to once, or not yet. One that a process cannot digest stops it there,
loudly: going on would forget what it was to cause.
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

# Whoever nobody told where to begin begins at the log's end: history is not acted on again.
BEGIN = """
INSERT INTO process_inboxes (process, position) VALUES (%s, %s) ON CONFLICT DO NOTHING
"""
TAKE = "SELECT position FROM process_inboxes WHERE process = %s FOR UPDATE SKIP LOCKED"
ADVANCE = """
UPDATE process_inboxes SET position = %s, updated_at = clock_timestamp() WHERE process = %s
"""
REMEMBERED = """
SELECT workspace_id, key, state FROM process_states
 WHERE process = %(process)s AND (workspace_id, key) IN (
       SELECT w, k FROM unnest(%(workspaces)s::uuid[], %(keys)s::text[]) AS asked (w, k))
"""
REMEMBER = """
INSERT INTO process_states (workspace_id, process, key, state) VALUES (%s, %s, %s, %s)
ON CONFLICT (workspace_id, process, key) DO UPDATE SET state = EXCLUDED.state
"""
FORGET = "DELETE FROM process_states WHERE workspace_id = %s AND process = %s AND key = %s"
ISSUE = """
INSERT INTO process_commands (id, workspace_id, process, position, name, data, metadata)
VALUES (%s, %s, %s, %s, %s, %s, %s)
"""

ProcessKey = tuple[str, str]
"""Workspace, and what the process calls the thing."""


def register_processes(connection: Connection, processes: Iterable[Process[Any]]) -> None:
    """Processes that are new to the database begin at the end of the log."""
    end = readable_position(connection)
    for process in processes:
        connection.execute(BEGIN, (process.name, end))


def handle_next_batch(
    connection: Connection, process: Process[Any], limit: int = BATCH_EVENTS
) -> bool:
    """React to the next events; whether there may be more at once.

    Raises whatever the process raises; then nothing has moved.
    """
    with connection.transaction():
        row = connection.execute(TAKE, (process.name,)).fetchone()
        if row is None:
            return False  # somebody else is at it
        page = read_after(connection, row[0], limit)
        if page.upto == row[0]:
            return False
        events = [event for event in page.events if event.topic in process.topics]
        if events:
            _react(connection, process, events)
        connection.execute(ADVANCE, (page.upto, process.name))
    return page.more


def _react(connection: Connection, process: Process[Any], events: list[RecordedEvent]) -> None:
    keys = [(event.workspace_id, process.key(event)) for event in events]
    before = _remembered(connection, process, keys)
    after: dict[ProcessKey, Any] = dict(before)
    with connection.pipeline():
        for key, event in zip(keys, events, strict=True):
            after[key], commands = process.react(after.get(key), event)
            _issue(connection, process, event, commands)
        _remember(connection, process, before, after)


def _remembered(
    connection: Connection, process: Process[Any], keys: list[ProcessKey]
) -> dict[ProcessKey, Any]:
    workspaces, names = zip(*keys, strict=True)
    asked = {"process": process.name, "workspaces": list(workspaces), "keys": list(names)}
    rows = connection.execute(REMEMBERED, asked)
    return {(row[0], row[1]): process.state_type(**orjson.loads(row[2])) for row in rows}


def _remember(
    connection: Connection,
    process: Process[Any],
    before: Mapping[ProcessKey, Any],
    after: Mapping[ProcessKey, Any],
) -> None:
    for key, memory in after.items():
        workspace, name = key
        if memory is None and key in before:
            connection.execute(FORGET, (workspace, process.name, name))
        elif memory is not None and memory != before.get(key):
            state = orjson.dumps(asdict(memory)).decode()
            connection.execute(REMEMBER, (workspace, process.name, name, state))


def _issue(
    connection: Connection,
    process: Process[Any],
    event: RecordedEvent,
    commands: Iterable[Command],
) -> None:
    """The commands, with what their events will be traced by."""
    known = orjson.loads(event.metadata)
    cause = known.get("commandId") or f"event-{event.position}"
    metadata = {"correlationId": known.get("correlationId") or cause, "causationId": cause}
    for number, command in enumerate(commands):
        connection.execute(
            ISSUE,
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
