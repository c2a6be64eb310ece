"""The modules that take part while an import's rows go from the uploaded file into the log.

A reader who follows one row has to open all of these. The limit keeps that number small.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import UUID

import pytest

from commands.importing.job import ImportWork
from domain.job import JobStep
from runtime.settings import REPOSITORY
from tests.support.databases import Urls
from tests.support.imports import Importer, settings_for
from tests.support.source_files import is_of_program, relative

MODULES_MAX = 19
ROWS = """\
company,type,industry,notes,contactName,contactEmail
Acme,customer,software,First order,Ada,ada@acme.example
Bluth,partner,housing,,,
"""


def test_imported_rows_pass_few_modules(
    urls: Urls, workspace: UUID, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules: set[str] = set()

    def observe(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(REPOSITORY) and is_of_program(path):
            modules.add(relative(path))

    step = ImportWork.step

    def observed_step(work: ImportWork, cursor: Any, limit: int) -> JobStep:
        sys.setprofile(observe)
        try:
            return step(work, cursor, limit)
        finally:
            sys.setprofile(None)

    monkeypatch.setattr(ImportWork, "step", observed_step)
    result = Importer(settings_for(urls, tmp_path), workspace, tmp_path).run("accounts", ROWS)
    assert result.created == 2
    assert {"commands/importing/files.py", "eventlog/store/recorder.py"} <= modules
    assert len(modules) <= MODULES_MAX, sorted(modules)
