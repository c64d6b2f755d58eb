"""Every setting, its default and where the default comes from; YAML files and ``key=value`` overrides.

The defaults are the paper's (arXiv 2506.01274; "METHOD" sections are those of docs/method.md) and describe
the full-size model. The tiny models differ by configuration only: see ``configs/``. An unknown key is an error.
"""

from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from refocus_video.errors import ConfigError


class Settings(BaseModel):
    """Base of all settings: immutable, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def parse(cls, values: Any, source: str) -> Self:
        """Validate a mapping, with one clear line for each thing that is wrong.

        Raises:
            ConfigError: naming ``source``, the key, what was found, and the known keys where the key is unknown.
        """
        if not isinstance(values, dict):
            raise ConfigError(f"{source}: expected a mapping of settings, found {type(values).__name__}")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError("; ".join(_explain(cls, item, source) for item in error.errors())) from None

    @classmethod
    def load(cls, path: Path | None, overrides: tuple[str, ...] = ()) -> Self:
        """Read a YAML file (or start from the defaults) and apply ``key.sub=value`` overrides, values read as YAML."""
        values: Any = {}
        if path is not None:
            if not path.is_file():
                raise ConfigError(f"no configuration file at {path}; give the path of a YAML file")
            try:
                values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            except yaml.YAMLError as error:
                raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: expected a mapping of settings, found {type(values).__name__}")
        for override in overrides:
            _apply(values, override)
        return cls.parse(values, str(path) if path else "settings")


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"an override is written key=value, found {override!r}")
    *parents, leaf = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"override {override!r}: {parent!r} is a value, not a group of settings")
    values[leaf] = yaml.safe_load(text)


def _explain(cls: type[BaseModel], item: Any, source: str) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "(whole file)"
    if item["type"] == "extra_forbidden":
        group: Any = cls
        for part in item["loc"][:-1]:
            field = getattr(group, "model_fields", {}).get(part)
            group = field.annotation if field is not None else None
        known = ", ".join(getattr(group, "model_fields", {}))
        return f"{source}: unknown setting {where!r}; known ones here: {known}"
    return f"{source}: setting {where!r}: {item['msg'].lower()}, found {item['input']!r}"


class SamplingConfig(Settings):
    """How candidate frames are taken from a video (METHOD §2)."""

    fps: float = Field(default=4.0, gt=0)
    max_frames: int = Field(default=512, ge=1)


class VisionConfig(Settings):
    """A SigLIP tower; the names are those of ``transformers.SiglipVisionConfig``. Defaults: so400m/14 at 384 px."""

    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_hidden_layers: int = 26
    """Layers that are run. The published tower has 27; the last is dropped (METHOD §3)."""
    num_attention_heads: int = 16
    image_size: int = 384
    patch_size: int = 14

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of {self.num_attention_heads} attention heads"
            )
        return self


class PolicyConfig(Settings):
    """The selection policy (METHOD §3). Defaults: the 1.3B model."""

    vision: VisionConfig = VisionConfig()
    pool_stride: int = Field(default=2, ge=1)
    """Bilinear pooling of the patch grid: 27×27 → 14×14 at stride 2."""
    merge: int = Field(default=1, ge=1)
    """Joins merge×merge neighbouring pooled tokens into one wider token; 1 keeps them as in the paper."""
    d_model: int = 2048
    n_layer: int = 48
    d_state: int = 128
    headdim: int = 64
    expand: int = 2
    d_conv: int = 4
    chunk_size: int = 64
    vocab_size: int = 50288
    prompt_prefix: str = "<|system|>You are a helpful AI assistant.<|endoftext|><|user|>"
    prompt_suffix: str = "<|endoftext|>"
    options_in_prompt: bool = True
    """Whether the policy reads the answer options after the question, as the paper's does."""
    attention_scaling: bool = False
    """Divide the pick logits by √d_model as well."""

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if (self.expand * self.d_model) % self.headdim:
            raise ValueError(
                f"expand·d_model {self.expand * self.d_model} must be a multiple of headdim {self.headdim}"
            )
        return self
