"""Undo of every command: the state after the undo equals the state before the command."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commands.entities import EntityCommands
from domain.account import Account
from domain.api_key import ApiKey
from domain.contact import Contact
from domain.note import Note
from domain.opportunity import Opportunity
from domain.shared.entity import Entity
from domain.shared.refusals import (
    AlreadyUndone,
    NotAMember,
    NotUndoable,
)
from domain.sms import Sms
from domain.workspace import Workspace
from eventlog.connections import Connection
from eventlog.store.log import EventLog
from projections.engine.live.runner import ProjectionEngine
from tests.support.databases import Urls
from tests.support.oracle import assert_tables_match_log
from tests.support.random_commands import (
    COMMON_KINDS,
    FIELDS,
    RARE_KINDS,
    CommandStep,
    Create,
    Delete,
    Merge,
    Restore,
    StepRunner,
    acts,
    conversions,
    creations,
    deletable_kinds,
    entity_numbers,
    merges,
    revisions,
    workspaces,
)
from tests.support.undo_client import UndoClient

EXAMPLES_MAX = 60
MARK = "betweenTimes"
"""A custom field that no other command sets."""

COMMANDS: dict[str, st.SearchStrategy[CommandStep]] = {
    "create": creations,
    "revise": revisions,
    "delete": st.builds(Delete, workspaces, deletable_kinds, entity_numbers),
    "restore": st.builds(Restore, workspaces, deletable_kinds, entity_numbers),
    "merge": merges,
    "act": acts,
    "convert": conversions,
}
any_command = st.sampled_from(list(COMMANDS)).flatmap(lambda name: COMMANDS[name])
"""A command; every type has the same probability."""


def _create_one(kind: type[Entity]) -> st.SearchStrategy[CommandStep]:
    # An account with an open opportunity cannot be deleted.
    fields = FIELDS[kind].map(
        lambda values: {**values, **({"stage": "won"} if "stage" in values else {})}
    )
    account = 0 if kind.BELONGS_TO_ACCOUNT else None
    return st.builds(Create, st.just(0), st.just(kind), fields, st.just(account), st.none())


first_entities = st.tuples(*[_create_one(kind) for kind in [*COMMON_KINDS, *RARE_KINDS]])
"""One entity of each kind, in the first workspace."""

EntityState = tuple[dict[str, Any], bool, UUID | None, UUID | None, UUID | None]
"""Values, whether it is deleted, the account it was deleted with, its survivor and its account."""
State = dict[UUID, EntityState]


def test_undo_of_any_command_restores_the_state_before_it(
    urls: Urls,
    log: EventLog,
    commands: EntityCommands,
    engine: ProjectionEngine,
    database: Connection,
) -> None:
    @settings(
        max_examples=EXAMPLES_MAX,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(first_entities, st.lists(any_command, max_size=8), any_command, st.booleans())
    def holds(first: Any, earlier: list[CommandStep], command: CommandStep, is_busy: bool) -> None:
        player = StepRunner.of(log, commands, urls.owner)
        command = replace(command, workspace=0)
        for each in (*first, *earlier):
            player.run(each)
        if isinstance(command, Restore):
            player.run(Delete(0, command.kind, command.entity_number))
        elif isinstance(command, Merge):
            make_twin(player, command)
        undo_client = UndoClient(log, commands, player.scopes[command.workspace])
        done = player.scopes[command.workspace] = undo_client.new_scope()
        before = load_states(undo_client, player, command.workspace)
        player.run(command)
        count = len(undo_client.positions(done.command_id))
        if count and is_irreversible(command):
            with pytest.raises(NotUndoable):
                undo_client.undo_command(done.command_id)
        elif count:
            check(undo_client, player, command.workspace, done.command_id, before, is_busy)

    holds()
    engine.catch_up()
    assert_tables_match_log(database)


def make_twin(player: StepRunner, command: Merge) -> None:
    """Create a second entity to merge; an account also gets children."""
    one = player.find_entity(command)
    assert one is not None
    player.run(Restore(0, command.kind, command.entity_number))
    same = {"company": "Twin", "type": one.values["type"]} if command.kind is Account else {}
    fields = {"name": "Twin", "email": "a@example.com"} if command.kind is Contact else same
    player.run(Create(0, command.kind, fields, 0, None))
    twin = player.known[0][-1]
    if isinstance(twin, Account):
        scope = player.scopes[0]
        for kind, values in ((Note, {"body": "x"}), (Opportunity, {"name": "x"})):
            outcome = player.commands.create(scope, kind, values, account_id=twin.id)
            player.known[0].append(outcome.entity)


def is_irreversible(command: CommandStep) -> bool:
    """Whether the command has an effect that cannot be undone."""
    if command.kind is Workspace:
        return isinstance(command, Create)
    if command.kind is Sms:  # only the record of a sent message can be undone
        return not isinstance(command, Delete | Restore)
    return command.kind is ApiKey


def check(
    undo_client: UndoClient,
    player: StepRunner,
    workspace: int,
    command_id: str,
    before: State,
    is_busy: bool,
) -> None:
    """Undo the command, undo that undo, and compare the states."""
    done = load_states(undo_client, player, workspace)
    new = done.keys() - before.keys()
    marked = mark_entities(undo_client, player, workspace, before, done) if is_busy else frozenset()
    try:
        undone = undo_client.undo_command(command_id)
    except NotAMember:
        return  # the member it was assigned to before is deleted
    now = load_states(undo_client, player, workspace)
    assert {each: now[each] for each in before} == {
        each: with_mark(state) if each in marked else state for each, state in before.items()
    }
    assert all(now[each][1] for each in new), "created entities are deleted"
    with pytest.raises(AlreadyUndone):
        undo_client.undo_command(command_id)
    redone = undo_client.undo_command(undone)
    assert load_states(undo_client, player, workspace) == {
        each: with_mark(state) if each in marked else state for each, state in done.items()
    }
    undo_client.undo_command(redone)
    assert load_states(undo_client, player, workspace) == now


def load_states(undo_client: UndoClient, player: StepRunner, workspace: int) -> State:
    """Return the state of every entity in the workspace."""
    loaded = [undo_client.load(type(each), each.id) for each in player.known[workspace]]
    return {
        each.id: (
            each.values,
            each.is_deleted,
            each.deleted_with,
            each.merged_into,
            # A deleted entity returns to the survivor of its account, which is known only then.
            None if each.is_deleted else each.account_id,
        )
        for each in loaded
    }


def mark_entities(
    undo_client: UndoClient, player: StepRunner, workspace: int, before: State, done: State
) -> frozenset[UUID]:
    """Set another field of each entity that exists before and after; return their ids."""
    stayed = [
        each
        for each in player.known[workspace]
        if each.id in before and not before[each.id][1] and not done[each.id][1]
    ]
    for each in stayed:
        custom_fields = {**done[each.id][0].get("customFields", {}), MARK: True}
        undo_client.set(type(each), each.id, customFields=custom_fields)
    return frozenset(each.id for each in stayed)


def with_mark(state: EntityState) -> EntityState:
    values, is_deleted, deleted_with, merged_into, account_id = state
    custom_fields = {**values.get("customFields", {}), MARK: True}
    return (
        {**values, "customFields": custom_fields},
        is_deleted,
        deleted_with,
        merged_into,
        account_id,
    )
