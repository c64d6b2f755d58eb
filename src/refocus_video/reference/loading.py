"""A Hugging Face checkpoint from a folder or the hub: what is wrong with it is said before its weights are read."""

from pathlib import Path
from typing import Any

from refocus_video.errors import CheckpointError, ReferenceModelError, one_line
from refocus_video.hub import CONFIG_FILE, TEXT_FILES, local_folder
from refocus_video.reference.families import FAMILIES

WANTED = "reference model"


def load(
    source: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "auto",
    attention: str | None = None,
    revision: str | None = None,
) -> tuple[Any, Any]:
    """A model and its tokenizer.

    Args:
        source: a folder, or the id ``owner/name`` of a model of the hub.
        device: where the model goes, in torch's words.
        dtype: of the weights, such as ``bfloat16``; ``auto`` for that of the checkpoint.
        attention: implementation of attention in transformers' words (``sdpa``, ``flash_attention_2``, ...); None for its choice.
        revision: branch, tag or commit of a model of the hub.

    Raises:
        CheckpointError: if there is nothing to load, in one line.
        ReferenceModelError: if it is not a video LMM of a supported family.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

    # The settings first: what cannot be used is told before its weights are downloaded.
    folder = local_folder(source, WANTED, TEXT_FILES, revision)
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(f"no {WANTED} in {source}: expected a folder with {CONFIG_FILE} and weights")
    try:
        config = AutoConfig.from_pretrained(folder)
        _check_kind(source, config)
        folder = local_folder(source, WANTED, revision=revision)
        model, found = AutoModelForImageTextToText.from_pretrained(
            folder, config=config, dtype=dtype, attn_implementation=attention, output_loading_info=True
        )
        _check_weights(source, found)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (CheckpointError, ReferenceModelError):
        raise
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise CheckpointError(f"cannot load the reference model {str(source)!r}: {one_line(error)}") from None
    return model.to(device), tokenizer


def _check_weights(source: str | Path, found: dict[str, Any]) -> None:
    """Refuse weights that the library would replace by random ones and go on."""
    missing = sorted({*found["missing_keys"], *(str(entry[0]) for entry in found.get("mismatched_keys") or ())})
    if missing:
        unknown = sorted(found.get("unexpected_keys") or ())
        renamed = f"; it has others that no part of the model takes, such as {unknown[0]}" if unknown else ""
        raise CheckpointError(
            f"{str(source)!r} lacks {len(missing)} of the model's tensors, such as {missing[0]}, or has them in another "
            f"shape{renamed}; fetch the whole checkpoint again"
        )


def _check_kind(source: str | Path, config: Any) -> None:
    if config.model_type in FAMILIES:
        return
    blind = not hasattr(config, "vision_config")
    what = "has no image or video processor, so it cannot look at frames" if blind else "is not supported"
    raise ReferenceModelError(
        f"{str(source)!r}: model type {config.model_type!r} {what}; supported: {', '.join(FAMILIES)}"
    )
