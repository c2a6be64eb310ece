"""The projector process, with the faults of ANNALS_CHAOS_FAULTS in its projections.

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
from tests.support.chaos.projection_faults import FAULTS_VARIABLE, ProjectionFaults


def main() -> None:
    """Run `annals project` with faulty projections."""
    end_with_supervisor()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s")
    faults = ProjectionFaults.parse(os.environ[FAULTS_VARIABLE])
    faulty = {name: faults.wrap(projection) for name, projection in PROJECTIONS.items()}
    projector.__dict__["PROJECTIONS"] = MappingProxyType(faulty)
    projector.run_projector(Settings())


if __name__ == "__main__":
    main()
