"""Takes the weights of a SigLIP tower out of any checkpoint that holds one: SigLIP itself, or an LMM built on it.

The tower is found by the name of its patch embedding, whatever stands before it. Layers beyond those that the policy runs, the
post-layernorm and the pooling head are left out (METHOD §3).
"""

import re
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from refocus_video.errors import CheckpointError
from refocus_video.policy.checkpoint import load_weights
from refocus_video.policy.vision import Vision

ANCHOR = "embeddings.patch_embedding.weight"


def load_tower(vision: Vision, source: str | Path) -> None:
    """Fill the frozen tower of a policy from a checkpoint folder or hub id.

    Raises:
        CheckpointError: if there is no tower in it, or one of another size.
    """
    folder = _folder(source)
    weights = tower_weights(folder)
    layers = vision.config.vision.num_hidden_layers
    wanted = {
        name: tensor
        for name, tensor in weights.items()
        if not name.startswith(("post_layernorm", "head."))
        and not ((layer := re.match(r"encoder\.layers\.(\d+)\.", name)) and int(layer[1]) >= layers)
    }
    load_weights(
        vision.tower, {name: t.to(vision.projector[0].weight.dtype) for name, t in wanted.items()}, str(source)
    )
    vision.number_positions()
    vision.tower.requires_grad_(False)


def tower_weights(folder: Path) -> dict[str, Tensor]:
    """Weights of the SigLIP tower in a folder, by their names inside the tower."""
    weights: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            prefixes = [name.removesuffix(ANCHOR) for name in names if name.endswith(ANCHOR)]
            for name in names:
                if "vision" in name or (prefixes and name.startswith(prefixes[0])):
                    weights[name] = file.get_tensor(name)
    anchors = [name for name in weights if name.endswith(ANCHOR)]
    if len(anchors) != 1:
        raise CheckpointError(f"{folder} holds {len(anchors)} SigLIP towers (…{ANCHOR}); expected one")
    prefix = anchors[0].removesuffix(ANCHOR)
    return {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}


def _folder(source: str | Path) -> Path:
    folder = Path(source)
    if folder.is_dir():
        return folder
    if str(source).count("/") != 1 or str(source).startswith((".", "/", "~")):
        raise CheckpointError(
            f"no folder at {source} to take the vision tower from; give a folder or a hub id owner/name"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source), allow_patterns=["*.json", "*.safetensors"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"the vision tower {str(source)!r} cannot be fetched from the hub: {reason}") from error
