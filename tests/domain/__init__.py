"""The aggregates' specification: given what happened, when somebody decides, then this follows."""

import pytest

pytest.register_assert_rewrite("tests.support.spec")
