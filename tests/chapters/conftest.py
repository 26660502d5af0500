"""Shared by the tests of the chapters."""

import pytest

# So that a failing bound shows the record it was held against.
pytest.register_assert_rewrite("expectations")
