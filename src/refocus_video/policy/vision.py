"""Frames to visual features: SigLIP tower, bilinear pooling, neighbour merging, projector (METHOD §3).

1. The tower is frozen and stays in evaluation mode. Its hidden states are taken *before* the post-layernorm, and it has
   no pooling head. ``num_hidden_layers`` counts the layers that run: the published tower's last one is dropped.
2. The projector is apart from the tower, because features are computed once and kept, while the projector is trained.

Where we differ: ``merge`` joins merge×merge neighbouring tokens into one wider token (1 in the paper), and ``pool_mode`` may
average all patches of a token, which a grid of few tokens needs.

Legend: N frames, H height, W width, R patches along one side, P tokens per frame, C channels of a token.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from refocus_video.config import PolicyConfig, PoolMode
from refocus_video.errors import VideoError


class Vision(nn.Module):
    """The frozen tower with its pooling, and the projector to the backbone's width."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        vision = config.vision
        self.tower = SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=vision.hidden_size,
                intermediate_size=vision.intermediate_size,
                num_hidden_layers=vision.num_hidden_layers,
                num_attention_heads=vision.num_attention_heads,
                image_size=vision.image_size,
                patch_size=vision.patch_size,
                vision_use_head=False,
            )
        )
        # Features are read before the post-layernorm: without its weights there is nothing to load or to train.
        self.tower.post_layernorm = nn.Identity()
        self.tower.requires_grad_(False).eval()
        channels = vision.hidden_size * config.merge**2
        self.projector = nn.Sequential(
            nn.Linear(channels, config.d_model), nn.GELU(), nn.Linear(config.d_model, config.d_model)
        )

    def train(self, mode: bool = True) -> "Vision":
        """Set the mode of the projector; the tower stays in evaluation mode."""
        super().train(mode)
        self.tower.eval()
        return self

    def number_positions(self) -> None:
        """Make the tower's patch numbers anew: no checkpoint holds them, so loading leaves them without values."""
        embeddings = self.tower.embeddings
        embeddings.position_ids = torch.arange(embeddings.num_positions)[None]

    def forward(self, frames: Tensor) -> Tensor:
        """Features of frames as they come from a video: (N, H, W, 3) uint8 -> (N, P, C).

        Raises:
            VideoError: when the frames do not have the tower's size.
        """
        vision = self.config.vision
        side = vision.image_size
        if frames.shape[1:] != (side, side, 3) or frames.dtype != torch.uint8:
            raise VideoError(
                f"the policy's tower reads frames of shape (N, {side}, {side}, 3) uint8, found {tuple(frames.shape)} "
                f"{str(frames.dtype).removeprefix('torch.')}; decode the video at size {side}"
            )
        pixels = frames.permute(0, 3, 1, 2).float() / 255  # (N, 3, H, W)
        return self.features((pixels - vision.pixel_mean) / vision.pixel_std)

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Pooled and merged tower features of normalised pixels: (N, 3, H, W) -> (N, P, C), without gradient."""
        embedded = self.tower.embeddings(pixels)  # (N, R·R, hidden)
        hidden = self.tower.encoder(inputs_embeds=embedded).last_hidden_state  # (N, R·R, hidden)
        side = self.config.vision.image_size // self.config.vision.patch_size
        grid = torch.unflatten(hidden.mT, -1, (side, side))  # (N, hidden, R, R)
        return merge_neighbours(pool(grid, self.config.pool_stride, self.config.pool_mode), self.config.merge)


def pool(grid: Tensor, stride: int, mode: PoolMode = "bilinear") -> Tensor:
    """Pooling of a square grid to ceil(R / stride): (N, hidden, R, R) -> (N, hidden, R', R').

    ``bilinear`` looks at the 2×2 patches around each new centre, ``mean`` at all that a new token covers.
    """
    if stride == 1:
        return grid
    side = -(-grid.shape[-1] // stride)
    if mode == "mean":
        return F.adaptive_avg_pool2d(grid, side)
    return F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False)


def merge_neighbours(grid: Tensor, merge: int) -> Tensor:
    """Join merge×merge neighbours, row by row, into wider tokens: (N, hidden, R, R) -> (N, P, hidden · merge²)."""
    side = grid.shape[-1] // merge
    blocks = grid.reshape(*grid.shape[:2], side, merge, side, merge)  # (N, hidden, R', merge, R', merge)
    return blocks.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
