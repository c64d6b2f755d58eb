"""Tables as Parquet files, through pyarrow where it is installed."""

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from refocus_video.errors import ConfigError
from refocus_video.files import replacing

ROWS_AT_ONCE = 16384

TEXT, NUMBER, WHOLE = "string", "double", "int64"
TEXTS, NUMBERS, PAIRS = "list<string>", "list<double>", "list<list<double>>"
"""What a column holds."""


def check_parquet() -> None:
    """Raise :class:`ConfigError` unless Parquet files can be written."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise ConfigError("Parquet files need pyarrow; pip install 'refocus-video[data]'") from None


def write_parquet(path: Path, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Write rows atomically, a batch in memory at a time. A field that a row does not have is null.

    Raises:
        ConfigError: without pyarrow.
    """
    check_parquet()
    import pyarrow
    from pyarrow import parquet

    pairs = pyarrow.list_(pyarrow.list_(pyarrow.float64()))
    kinds = {
        TEXT: pyarrow.string(),
        NUMBER: pyarrow.float64(),
        WHOLE: pyarrow.int64(),
        TEXTS: pyarrow.list_(pyarrow.string()),
        NUMBERS: pyarrow.list_(pyarrow.float64()),
        PAIRS: pairs,
    }
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
    remaining = iter(rows)
    with replacing(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        while batch := list(islice(remaining, ROWS_AT_ONCE)):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
