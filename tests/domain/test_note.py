"""Note: a text about an account."""

from __future__ import annotations

from domain.note import Note
from domain.shared.fields import TEXT_MAX_CHARS
from tests.support.spec import NOON, created, given, updated, when_created


def test_a_note_needs_a_body_and_no_title() -> None:
    when_created(Note, {"body": "Likes tea."}).then(created(Note, {"body": "Likes tea."}))
    when_created(Note, {"title": "Tea"}).then_invalid("body")


def test_a_note_keeps_its_line_breaks() -> None:
    lines = "Likes:\n\ttea\r\n\tcake"
    when_created(Note, {"body": lines}).then(created(Note, {"body": lines}))


def test_a_note_has_a_maximum_length() -> None:
    longest = "x" * TEXT_MAX_CHARS
    when_created(Note, {"body": longest}).then(created(Note, {"body": longest}))
    when_created(Note, {"body": longest + "x"}).then_invalid("body")


def test_a_title_can_be_added() -> None:
    given(Note, created(Note, {"body": "Likes tea."})).when(
        lambda note: note.revise({"body": "Likes tea.", "title": "Tea"}, at=NOON)
    ).then(updated(Note, title=(None, "Tea")))
