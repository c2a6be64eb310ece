"""Specifications of the aggregates: given events, when a decision is made, then its outcome."""

import pytest

pytest.register_assert_rewrite("tests.support.spec")
