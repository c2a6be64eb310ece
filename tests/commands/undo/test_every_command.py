"""Undo of every command there is: done and undone is as if it had never been done."""

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
"""A custom field that nobody else sets."""

DOINGS: dict[str, st.SearchStrategy[CommandStep]] = {
    "create": creations,
    "revise": revisions,
    "delete": st.builds(Delete, workspaces, deletable_kinds, entity_numbers),
    "restore": st.builds(Restore, workspaces, deletable_kinds, entity_numbers),
    "merge": merges,
    "act": acts,
    "convert": conversions,
}
doings = st.sampled_from(list(DOINGS)).flatmap(lambda what: DOINGS[what])
"""A command, each with the same chance."""


def _one_of_each(kind: type[Entity]) -> st.SearchStrategy[CommandStep]:
    # With an open deal an account could not be deleted.
    fields = FIELDS[kind].map(
        lambda given: {**given, **({"stage": "won"} if "stage" in given else {})}
    )
    account = 0 if kind.BELONGS_TO_ACCOUNT else None
    return st.builds(Create, st.just(0), st.just(kind), fields, st.just(account), st.none())


beginnings = st.tuples(*[_one_of_each(kind) for kind in [*COMMON_KINDS, *RARE_KINDS]])
"""One of each kind there is, in the first workspace."""

Known = tuple[dict[str, Any], bool, UUID | None, UUID | None, UUID | None]
"""Fields, whether it is deleted, with which account, into what it was merged, and its account."""
State = dict[UUID, Known]


def test_done_and_undone_is_as_if_it_had_not_been(
    log: EventLog, commands: EntityCommands, engine: ProjectionEngine, database: Connection
) -> None:
    @settings(
        max_examples=EXAMPLES_MAX,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(beginnings, st.lists(doings, max_size=8), doings, st.booleans())
    def holds(beginning: Any, life: list[CommandStep], step: CommandStep, is_busy: bool) -> None:
        player = StepRunner.of(log, commands)
        step = replace(step, workspace=0)
        for each in (*beginning, *life):
            player.run(each)
        if isinstance(step, Restore):
            player.run(Delete(0, step.kind, step.entity_number))
        elif isinstance(step, Merge):
            make_twin(player, step)
        undo_client = UndoClient(log, commands, player.scopes[step.workspace])
        done = player.scopes[step.workspace] = undo_client.new_scope()
        before = states(undo_client, player, step.workspace)
        player.run(step)
        count = len(undo_client.positions(done.command_id))
        if count and is_final(step):
            with pytest.raises(NotUndoable):
                undo_client.undo_command(done.command_id)
        elif count:
            check(undo_client, player, step.workspace, done.command_id, before, is_busy)

    holds()
    engine.catch_up()
    assert_tables_match_log(database)


def make_twin(player: StepRunner, step: Merge) -> None:
    """There is another one to merge, with something on it where it is an account."""
    one = player.find_entity(step)
    assert one is not None
    player.run(Restore(0, step.kind, step.entity_number))
    same = {"company": "Twin", "type": one.values["type"]} if step.kind is Account else {}
    fields = {"name": "Twin", "email": "a@example.com"} if step.kind is Contact else same
    player.run(Create(0, step.kind, fields, 0, None))
    twin = player.known[0][-1]
    if isinstance(twin, Account):
        scope = player.scopes[0]
        for kind, of in ((Note, {"body": "x"}), (Opportunity, {"name": "x"})):
            outcome = player.commands.create(scope, kind, of, account_id=twin.id)
            player.known[0].append(outcome.entity)


def is_final(step: CommandStep) -> bool:
    """Whether what it does leaves the house."""
    if step.kind is Workspace:
        return isinstance(step, Create)
    if step.kind is Sms:  # what was sent was sent; its record comes and goes
        return not isinstance(step, Delete | Restore)
    return step.kind is ApiKey


def check(
    undo_client: UndoClient,
    player: StepRunner,
    workspace: int,
    command_id: str,
    before: State,
    is_busy: bool,
) -> None:
    """The command is undone, and its undo is."""
    done = states(undo_client, player, workspace)
    new = done.keys() - before.keys()
    marked = mark(undo_client, player, workspace, before, done) if is_busy else frozenset()
    try:
        undone = undo_client.undo_command(command_id)
    except NotAMember:
        return  # the member it was assigned to before has left
    now = states(undo_client, player, workspace)
    assert {each: now[each] for each in before} == {
        each: with_mark(state) if each in marked else state for each, state in before.items()
    }
    assert all(now[each][1] for each in new), "what was created is gone"
    with pytest.raises(AlreadyUndone):
        undo_client.undo_command(command_id)
    redone = undo_client.undo_command(undone)
    assert states(undo_client, player, workspace) == {
        each: with_mark(state) if each in marked else state for each, state in done.items()
    }
    undo_client.undo_command(redone)
    assert states(undo_client, player, workspace) == now


def states(undo_client: UndoClient, player: StepRunner, workspace: int) -> State:
    """What is known of everything in the workspace."""
    loaded = [undo_client.load(type(each), each.id) for each in player.known[workspace]]
    return {
        each.id: (
            each.values,
            each.is_deleted,
            each.deleted_with,
            each.merged_into,
            # What is gone has no account to be on; it returns to the one that there is by then.
            None if each.is_deleted else each.account_id,
        )
        for each in loaded
    }


def mark(
    undo_client: UndoClient, player: StepRunner, workspace: int, before: State, done: State
) -> frozenset[UUID]:
    """Meanwhile somebody sets another field of all that neither came nor went; returns of which."""
    stayed = [
        each
        for each in player.known[workspace]
        if each.id in before and not before[each.id][1] and not done[each.id][1]
    ]
    for each in stayed:
        custom = {**done[each.id][0].get("customFields", {}), MARK: True}
        undo_client.set(type(each), each.id, customFields=custom)
    return frozenset(each.id for each in stayed)


def with_mark(state: Known) -> Known:
    facts, is_deleted, deleted_with, merged_into, account_id = state
    custom = {**facts.get("customFields", {}), MARK: True}
    return {**facts, "customFields": custom}, is_deleted, deleted_with, merged_into, account_id
