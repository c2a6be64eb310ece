"""API key: issued with a role, revoked for ever."""

from __future__ import annotations

import pytest

from domain.api_key import ApiKey
from domain.shared.refusals import KeyRevoked
from tests.support.examples import NIGHTLY_SYNC
from tests.support.spec import ID, NOON, created, deleted, given, updated, when_created


@pytest.mark.parametrize("role", ["admin", "member", "auditor", "analyst", "read-only"])
def test_a_key_has_a_role(role: str) -> None:
    key = {**NIGHTLY_SYNC, "role": role}
    when_created(ApiKey, key).then(created(ApiKey, key))


def test_an_unknown_role_is_refused() -> None:
    when_created(ApiKey, {**NIGHTLY_SYNC, "role": "owner"}).then_invalid("role")


@pytest.mark.parametrize("digest", ["", "secret", "0" * 63, "G" * 64, "0" * 65])
def test_only_a_digest_is_accepted_as_the_secret(digest: str) -> None:
    when_created(ApiKey, {**NIGHTLY_SYNC, "secretSha256": digest}).then_invalid("secretSha256")


def test_the_role_of_a_key_can_be_changed() -> None:
    given(ApiKey, created(ApiKey, NIGHTLY_SYNC)).when(
        lambda key: key.revise({**NIGHTLY_SYNC, "role": "read-only"}, at=NOON)
    ).then(updated(ApiKey, role=("member", "read-only")))


def test_a_revoked_key_cannot_be_restored() -> None:
    given(ApiKey, created(ApiKey, NIGHTLY_SYNC), deleted(ApiKey, NIGHTLY_SYNC)).when(
        lambda key: key.restore(at=NOON)
    ).then(KeyRevoked(ID))
