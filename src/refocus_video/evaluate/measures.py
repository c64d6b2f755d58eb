"""Sections of an overview about what is measured beside accuracy: the needle test, suppression, prefix noise, influence. HTML."""

from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]


def measure_sections(measures: Mapping[str, Sequence[Row]]) -> list[tuple[str, str]]:
    """Title and HTML of each kind of measurement that is there."""
    return []
