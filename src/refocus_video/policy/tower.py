"""Takes the weights of a SigLIP tower out of any checkpoint that holds one: SigLIP itself, or an LMM built on it.

The tower is found by the name of its patch embedding, whatever stands before it. Layers beyond those that the policy runs, the
post-layernorm and the pooling head are left out (METHOD §3).
"""

import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from refocus_video.errors import CheckpointError
from refocus_video.hub import TEXT_FILES, local_folder
from refocus_video.policy.files import load_weights, unreadable
from refocus_video.policy.vision import Vision

ANCHOR = "embeddings.patch_embedding.weight"


def load_tower(vision: Vision, source: str | Path) -> None:
    """Fill the frozen tower of a policy from a checkpoint folder or hub id.

    Raises:
        CheckpointError: if there is no tower in it, or one of another size.
    """
    weights = tower_weights(tower_folder(source))
    layers = vision.config.vision.num_hidden_layers
    wanted = {name: tensor for name, tensor in weights.items() if runs(name, layers)}
    dtype = next(vision.projector.parameters()).dtype
    load_weights(vision.tower, {name: tensor.to(dtype) for name, tensor in wanted.items()}, str(source))
    vision.number_positions()
    vision.tower.requires_grad_(False)


def tower_folder(source: str | Path) -> Path:
    """The folder of a checkpoint that holds a tower, downloaded when it is a hub id."""
    return local_folder(source, "vision tower", (*TEXT_FILES, "*.safetensors"))


def runs(name: str, layers: int) -> bool:
    """Whether a weight of a tower, by its name inside the tower, is one of those that the policy runs."""
    if name.startswith(("post_layernorm.", "head.")) or name == "embeddings.position_ids":
        return False
    layer = re.match(r"encoder\.layers\.(\d+)\.", name)
    return layer is None or int(layer[1]) < layers


def tower_weights(folder: Path) -> dict[str, Tensor]:
    """Weights of the SigLIP tower in a folder, by their names inside the tower."""
    weights: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                prefixes = [name.removesuffix(ANCHOR) for name in names if name.endswith(ANCHOR)]
                for name in names:
                    if "vision" in name or (prefixes and name.startswith(prefixes[0])):
                        weights[name] = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise unreadable(path, error) from None
    anchors = [name for name in weights if name.endswith(ANCHOR)]
    if len(anchors) != 1:
        raise CheckpointError(f"{folder} holds {len(anchors)} SigLIP towers (…{ANCHOR}); expected one")
    prefix = anchors[0].removesuffix(ANCHOR)
    return {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}
