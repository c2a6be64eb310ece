"""The projector process, with the curse of ANNALS_CHAOS_CURSE on its projections.

python -m tests.support.chaos.projector
"""

from __future__ import annotations

import logging
import os
from types import MappingProxyType

from projections.engine.registry import PROJECTIONS
from runtime.process import end_with_supervisor
from runtime.settings import Settings
from server.processes import projector
from tests.support.chaos.curse import VARIABLE, Curse


def main() -> None:
    """As `annals project`, but for the curse."""
    end_with_supervisor()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s")
    curse = Curse.parse(os.environ[VARIABLE])
    cursed = {name: curse.cast(projection) for name, projection in PROJECTIONS.items()}
    projector.__dict__["PROJECTIONS"] = MappingProxyType(cursed)
    projector.run_projector(Settings())


if __name__ == "__main__":
    main()
