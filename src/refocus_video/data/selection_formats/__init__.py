"""Frame lists that others have published, one module a family of formats.

A reader takes the path of a file and yields a :class:`~.listed.Listed` a question. A new format is a function of that kind,
registered here, or in another package under the entry point group ``refocus_video.selection_formats``.
"""

from refocus_video.registry import Registry

_HERE = "refocus_video.data.selection_formats"

SELECTION_FORMATS = Registry(
    "selection_formats",
    {
        "aks": f"{_HERE}.lists:read_aks",
        "tspo": f"{_HERE}.lists:read_tspo",
        "kfs-bench": f"{_HERE}.lists:read_kfs_bench",
        "refocus": f"{_HERE}.shelf:read",
    },
)
