"""Why a request for a projection job is refused."""

from __future__ import annotations

from dataclasses import dataclass

from domain.shared.refusals import Refusal


@dataclass
class ProjectionJobInProgress(Refusal):
    """A job on this projection is already in progress."""


@dataclass
class ProjectionJobEnded(Refusal):
    """The job has already ended."""


@dataclass
class NoPreviousTables(Refusal):
    """There are no previous tables to roll back to."""
