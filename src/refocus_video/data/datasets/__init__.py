"""Questions from the annotation files of public data sets, one module a format.

A reader takes the path of an annotation file (or the folder of several) and yields a :class:`~.record.Record` a question, or an
:class:`~.record.Unusable` with its reason; videos are named as the data set names them and looked up afterwards. A new format is a
module with such a function, registered here, or in another package under the entry point group ``refocus_video.datasets``.
"""

from refocus_video.registry import Registry

_HERE = "refocus_video.data.datasets"

DATASETS = Registry(
    "datasets",
    {
        "video-mme": f"{_HERE}.videomme:read",
        "longvideobench": f"{_HERE}.longvideobench:read",
        "mlvu": f"{_HERE}.mlvu:read",
        "lvbench": f"{_HERE}.lvbench:read",
        "next-qa": f"{_HERE}.nextqa:read",
        "egoschema": f"{_HERE}.egoschema:read",
        "video-mmmu": f"{_HERE}.videommmu:read",
        "activitynet-qa": f"{_HERE}.activitynetqa:read",
        "llava-video": f"{_HERE}.llavavideo:read",
        "perceptiontest": f"{_HERE}.perceptiontest:read",
        "mvbench": f"{_HERE}.mvbench:read",
        "tempcompass": f"{_HERE}.tempcompass:read",
        "cg-bench": f"{_HERE}.cgbench:read",
        "jsonl": f"{_HERE}.plain:read_jsonl",
        "csv": f"{_HERE}.plain:read_csv",
    },
)
