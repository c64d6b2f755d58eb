"""A Hugging Face checkpoint from a folder or the hub: what is wrong with it is said before its weights are read."""

from pathlib import Path
from typing import Any

from refocus_video.errors import CheckpointError, ReferenceModelError
from refocus_video.reference.families import FAMILIES


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
        source: a folder, or the id of a model of the hub.
        device: where the model goes, in torch's words.
        dtype: of the weights, such as ``bfloat16``; ``auto`` for that of the checkpoint.
        attention: implementation of attention in transformers' words (``sdpa``, ``flash_attention_2``, ...); None for its choice.
        revision: branch, tag or commit of a model of the hub.

    Raises:
        CheckpointError: if there is nothing to load, in one line.
        ReferenceModelError: if it is not a video LMM of a supported family.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

    folder = Path(source)
    looks_local = folder.is_absolute() or str(source).startswith(".") or len(folder.parts) > 2
    if looks_local and not (folder / "config.json").is_file():
        raise CheckpointError(f"no reference model in {source}: expected a folder with config.json and weights")
    try:
        config = AutoConfig.from_pretrained(source, revision=revision)
        _check_kind(source, config)
        model = AutoModelForImageTextToText.from_pretrained(
            source, config=config, dtype=dtype, attn_implementation=attention, revision=revision
        )
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    except ReferenceModelError:
        raise
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"cannot load the reference model {str(source)!r}: {reason}") from None
    return model.to(device), tokenizer


def _check_kind(source: str | Path, config: Any) -> None:
    if config.model_type in FAMILIES:
        return
    blind = not hasattr(config, "vision_config")
    what = "has no image or video processor, so it cannot look at frames" if blind else "is not supported"
    raise ReferenceModelError(
        f"{str(source)!r}: model type {config.model_type!r} {what}; supported: {', '.join(FAMILIES)}"
    )
