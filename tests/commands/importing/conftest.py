"""Fixtures of the tests of imports."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from tests.support.databases import Urls
from tests.support.imports import Importer, settings_for


@pytest.fixture
def importer(urls: Urls, workspace: UUID, tmp_path: Path) -> Importer:
    """An importer into a new workspace of the module's database."""
    return Importer(settings_for(urls, tmp_path), workspace, tmp_path)
