"""What ``--model_args`` of lmms-eval may say, and whose it is. Pure."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from refocus_video.config import SamplingConfig
from refocus_video.errors import ConfigError
from refocus_video.settings import Settings

SELECTOR, MODEL = "selector.", "model."


class LmmsSettings(Settings):
    """Ours among the model arguments. The names are none that lmms-eval's models have, except ``model``."""

    model: str
    """The model that answers, as ``--model`` of lmms-eval calls it."""
    selector: str | None = None
    """The selector by name, or whose rows of ``selections`` are used."""
    budget: int = Field(default=32, ge=1)
    """Frames of each video."""
    policy: str | None = None
    """Folder or hub id of the policy, for the selectors that need one."""
    relevance: str | None = None
    """Folder or hub id of the image–text model, for the selectors that need one."""
    selector_device: str | None = None
    """Where these two are run; None for the accelerator of this process, if there is one."""
    selections: Path | None = None
    """A selection file made before, in place of a selector that is run."""
    save_selections: Path | None = None
    """The selection file to write."""
    candidate_fps: float = Field(default=SamplingConfig().fps, gt=0)
    max_candidates: int | None = Field(default=SamplingConfig().max_frames, ge=0)
    time_labels: Literal["seconds", "clock", "number", "none"] = "seconds"
    """What stands before each frame; see :data:`refocus_video.integrations.messages.LABELS`."""
    frame_pixels: int = Field(default=768 * 28 * 28, ge=0)
    """The most of a frame that the model gets, 0 for no limit. The default is what qwen-vl-utils allows a video's frame."""
    question_from: str = "auto"
    """See :func:`refocus_video.integrations.messages.question_of`."""
    options_from: str = "auto"
    id_from: str | None = None
    """The field of a task's record with the id that selection files have; None for ``task/split/number``."""
    on_error: Literal["raise", "count"] = "raise"
    """Whether questions without frames end the run, or get an empty answer and are counted. Some tasks draw an option then."""

    @model_validator(mode="after")
    def _chooses(self) -> "LmmsSettings":
        if self.selector is None and self.selections is None:
            raise ValueError("name a selector, selector=…, or a selection file, selections=…")
        return self

    @property
    def sampling(self) -> SamplingConfig:
        """How candidates are taken."""
        return SamplingConfig(fps=self.candidate_fps, max_frames=self.max_candidates)


def split_arguments(arguments: Mapping[str, Any]) -> tuple[LmmsSettings, dict[str, Any], dict[str, Any]]:
    """Our settings, those of the selector, and those of the model that answers.

    ``selector.KEY=value`` is the selector's, with values as YAML; ``model.KEY=value`` the model's, for names that are ours too. All
    other names that are not ours are the model's.

    Raises:
        ConfigError: if ours cannot be used, or a name is nearly one of ours.
    """
    own: dict[str, Any] = {}
    of_selector: dict[str, Any] = {}
    of_model: dict[str, Any] = {}
    for key, value in arguments.items():
        if key.startswith(SELECTOR):
            of_selector[key.removeprefix(SELECTOR)] = _as_yaml(key, value)
        elif key in LmmsSettings.model_fields:
            own[key] = value
        elif key.startswith(MODEL):
            of_model[key.removeprefix(MODEL)] = value
        else:
            meant = get_close_matches(key, LmmsSettings.model_fields, n=1, cutoff=0.85)
            if meant:
                raise ConfigError(
                    f"model argument {key!r}: is {meant[0]!r} meant? If the answering model has it, write {MODEL}{key}=…"
                )
            of_model[key] = value
    settings = LmmsSettings.parse(own, "model arguments")
    if of_selector and settings.selections is not None:
        raise ConfigError(
            f"selections={settings.selections} runs no selector; leave out {SELECTOR}{next(iter(of_selector))}"
        )
    return settings, of_selector, of_model


def _as_yaml(key: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"model argument {key}={value!r} is not readable as YAML") from None
