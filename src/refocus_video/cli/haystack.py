"""``refocus haystack``: generated videos with hidden moments, and the tiny models that learn from them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from refocus_video.cli.console import print_json, print_table, progress
from refocus_video.cli.options import AsJson, ConfigName, Overrides, hide_loading_bars, output_folder

app = typer.Typer(
    help="Generated videos in which the moment that matters depends on the question.",
    short_help="Make videos with hidden moments, and models for them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("generate", short_help="Write videos with hidden cards, and questions about them.")
def generate(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where to write.", show_default=False, callback=output_folder)
    ],
    train: Annotated[int, typer.Option(min=1, help="Training videos.")] = 2000,
    validation: Annotated[int, typer.Option(min=1, help="Validation videos.")] = 100,
    test: Annotated[int, typer.Option(min=1, help="Test videos.")] = 150,
    seed: Annotated[int, typer.Option(min=0, help="Other seeds give other videos.")] = 0,
    backgrounds: Annotated[
        Path | None, typer.Option(help="Folder of real videos to draw the cards over; procedural if left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write H.264 videos with cards hidden in them, and questions about them (six for each video)."""
    from refocus_video.data.haystack.generate import generate as write_haystack

    sizes = {"train": train, "validation": validation, "test": test}
    extra: dict[str, Any] = {}
    if backgrounds is not None:
        from refocus_video.cli.backdrop import RealBackdrop

        extra["backdrop"] = RealBackdrop.from_folder(backgrounds)
    with progress("writing videos", sum(sizes.values())) as advance:
        paths = write_haystack(folder, sizes, seed=seed, progress=advance, **extra)
    report = {split: {"videos": sizes[split], "examples": str(path)} for split, path in paths.items()}
    if as_json:
        print_json(report)
    else:
        print_table(
            f"Haystack in {folder}",
            ["split", "videos", "questions in"],
            [[split, str(row["videos"]), str(row["examples"])] for split, row in report.items()],
        )


@app.command("train-reference", short_help="Train the tiny reference LMM on haystack videos.")
def train_reference(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="A folder made by `refocus haystack generate`.", show_default=False),
    ],
    output: Annotated[Path, typer.Option(help="Where to write the model.", callback=output_folder)] = Path(
        "runs/reference"
    ),
    config: ConfigName = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Train the tiny reference LMM (LLaVA-OneVision, about 0.6 M parameters) on haystack videos."""
    from refocus_video.train.tiny_reference import TinyReferenceConfig
    from refocus_video.train.tiny_reference_run import run

    scores = run(
        folder, output, TinyReferenceConfig.load(Path(config) if config else None, tuple(overrides or ())), progress
    )
    if as_json:
        print_json(scores)
    else:
        print_table(
            f"Tiny reference model in {output}",
            ["question", "answer by", "frames shown", "evidence", "n", "accuracy", "p(answer)"],
            [
                [row["kind"], row["answer_mode"], str(row["frames"]), row["evidence"], str(row["n"]),
                 f"{row['accuracy']:.2f}", f"{row['probability']:.2f}"]
                for row in scores["rows"]
            ],
        )  # fmt: skip


@app.command("train-relevance", short_help="Train a tiny image–text model on haystack videos.")
def train_relevance(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="A folder made by `refocus haystack generate`.", show_default=False),
    ],
    output: Annotated[Path, typer.Option(help="Where to write the model.", callback=output_folder)] = Path(
        "runs/relevance"
    ),
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Train a tiny image–text model (SigLIP, about 0.3 M parameters) on haystack videos.

    It says how relevant a frame is to a question: `refocus eval --selector topk,relevance=DIR`.
    """
    hide_loading_bars()
    from refocus_video.train.tiny_relevance import TinyRelevanceConfig
    from refocus_video.train.tiny_relevance_run import run

    scores = run(folder, output, TinyRelevanceConfig.load(config, tuple(overrides or ())), progress)
    if as_json:
        print_json(scores)
    else:
        print_table(
            f"Tiny image–text model in {output}: the most relevant frame shows …",
            ["question", "n", "the card asked about", "then the second card"],
            [
                [row["kind"], str(row["n"]), f"{row['asked_card']:.3f}",
                 "–" if row["second_card"] is None else f"{row['second_card']:.3f}"]
                for row in scores["rows"]
            ],
        )  # fmt: skip
