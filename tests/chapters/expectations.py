"""What the records of each chapter must show at smoke size: bounds that a broken model fails.

One function a chapter, called with its records {name: value}; EXPECTATIONS maps stem to function.
"""

from collections.abc import Callable
from typing import Any

Records = dict[str, Any]

EXPECTATIONS: dict[str, Callable[[Records], None]] = {}
