"""Task: to do, in progress, done, in any order."""

from __future__ import annotations

from domain.task import Task
from tests.support.examples import CALL_BACK
from tests.support.spec import created, when_created
from tests.support.transitions import check_transition, every_transition

TRANSITIONS = {
    "todo": "in_progress done",
    "in_progress": "todo done",
    "done": "todo in_progress",
}


@every_transition(TRANSITIONS)
def test_a_task_may_change_to_any_status(before: str, after: str) -> None:
    check_transition(Task, CALL_BACK, before, after, TRANSITIONS)


def test_a_new_task_is_to_do() -> None:
    when_created(Task, {"title": "Call back"}).then(created(Task, CALL_BACK))


def test_all_faults_of_a_task_are_reported_together() -> None:
    when_created(Task, {"title": " ", "status": "open", "dueDate": "31.1.2026"}).then_invalid(
        "title", "status", "dueDate"
    )
