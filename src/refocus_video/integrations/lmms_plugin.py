"""What lmms-eval finds by the entry-point group ``lmms_eval.models``; imported whenever lmms-eval is, so it imports nothing."""

from typing import Any, Final

NAME: Final = "refocus"


def manifests() -> Any:
    """The model ``refocus``, for chat models and with ``--force_simple`` for the others."""
    from lmms_eval.models.registry_v2 import ModelManifest

    module = "refocus_video.integrations.lmms_eval"
    return ModelManifest(
        model_id=NAME, chat_class_path=f"{module}.Refocus", simple_class_path=f"{module}.RefocusSimple"
    )
