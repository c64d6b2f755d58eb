"""``refocus init``: a fresh policy from a preset, a pretrained tower and a pretrained or random backbone."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from refocus_video.cli.console import notes, print_json, print_table, progress
from refocus_video.cli.options import AsJson, Overrides, hide_loading_bars, output_folder
from refocus_video.errors import CheckpointError

DEFAULT_TOWERS = {False: "google/siglip-so400m-patch14-384", True: "google/siglip-base-patch16-224"}
"""Where a preset's tower comes from; True for the lite ones."""

VOCABULARY_MULTIPLE = 16
"""The embedding of a random backbone has the tokenizer's tokens, rounded up to a multiple, as Mamba-2's 50288."""


def init(
    output: Annotated[Path, typer.Option(help="Folder for the policy.", show_default=False, callback=output_folder)],
    preset: Annotated[
        str, typer.Option(help="0.3b, 1.3b, 2.7b, lite, or lite-14x14 … lite-1x1 by tokens a frame.")
    ] = "lite",
    vision: Annotated[
        str | None, typer.Option(help="Folder or hub id of a SigLIP model: the frozen tower. The preset's if left out.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Folder or hub id of a Mamba-2 or Video-Ma²mba; random weights if left out.")
    ] = None,
    tokenizer: Annotated[str, typer.Option(help="Folder or hub id of the tokenizer.")] = "EleutherAI/gpt-neox-20b",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random weights.")] = 0,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Make a fresh policy: pretrained tower, pretrained or random backbone, new heads.

    Train it with `refocus train --set start.policy=FOLDER`; `refocus warm-start` may come before.
    """
    if (output / "config.json").exists():
        raise CheckpointError(f"{output} holds a model already; choose another --output, or remove that folder first")
    from refocus_video.assets import locate
    from refocus_video.config import PolicyConfig, RunConfig
    from refocus_video.files import write_json
    from refocus_video.policy.fresh import fresh_policy, read_backbone
    from refocus_video.train.setup import fitted, load_tokenizer

    hide_loading_bars()
    tower = locate(vision or DEFAULT_TOWERS[preset.startswith("lite")], "reference")
    named = RunConfig.load(None, (f"policy.preset={preset}",)).policy  # a wrong name is told before anything is fetched
    with progress("making the policy", 4) as advance:
        settings: dict[str, Any] = {"preset": preset}
        if vision is not None:
            settings |= fitted(named, tower)
        advance(note="tokenizer")
        words = load_tokenizer(locate(tokenizer, "reference"))
        found = None if backbone is None else read_backbone(backbone)
        rounded = -(-len(words) // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
        settings["vocab_size"] = rounded if found is None else found.sizes["vocab_size"]
        own = tuple(f"policy.{key}={json.dumps(value)}" for key, value in settings.items())
        config: PolicyConfig = RunConfig.load(None, (*own, *(overrides or ()))).policy
        advance(note="weights")
        policy = fresh_policy(config, words, tower=tower, backbone=found, seed=seed)
        advance(note="saving")
        policy.save_pretrained(output)
        start = {"preset": preset, "vision": tower, "backbone": backbone, "tokenizer": tokenizer, "seed": seed}
        unused = [] if found is None else list(found.unused)
        write_json(output / "start.json", {**start, "overrides": list(overrides or ()), "unused": unused})
        advance()
    rooms = {"vision.tower": "tower (frozen)", "vision.projector": "projector", "backbone": "backbone"}
    sizes = dict.fromkeys([*rooms.values(), "heads"], 0)
    for name, weight in policy.named_parameters():
        sizes[next((part for start, part in rooms.items() if name.startswith(start + ".")), "heads")] += weight.numel()
    if as_json:
        print_json({"policy": str(output), "parameters": sizes, "tokens_per_frame": config.tokens_per_frame,
                    "unused": unused})  # fmt: skip
        return
    title = f"{preset} policy in {output}: {config.tokens_per_frame} tokens a frame"
    print_table(title, ["part", "parameters"], [[part, f"{count:,}"] for part, count in sizes.items()])
    if unused:
        notes.print(f"not used of {backbone}: {', '.join(unused)}", markup=False, soft_wrap=True)
