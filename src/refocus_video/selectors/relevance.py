"""How relevant frames are to a question, by any image–text model of transformers: SigLIP, SigLIP 2, CLIP and their kind.

The cosine of picture and text. Pictures are embedded once per video and kept on disk; a question costs one short text.

1. The text is the question without its options, as in the published selectors; a prompt may stand around it.
2. A text longer than the model's own limit is cut, which is logged once and counted.
3. Pictures go through the model's own image processor, the one that needs no torchvision. Of :class:`Candidates` it
   gets the pictures as they are; a selector that shares its candidates with the policy so sees square ones. Of a
   :class:`Timeline` the frames are read from the file in their own size.

Legend: F candidate frames, N frames of a batch, D width of the embeddings.
"""

import hashlib
import logging
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refocus_video.assets import locate
from refocus_video.errors import CheckpointError, ConfigError, one_line
from refocus_video.hub import CONFIG_FILE, TEXT_FILES, local_folder
from refocus_video.policy.files import check_names
from refocus_video.selectors.embeddings import EmbeddingStore, pictures_identity
from refocus_video.selectors.scored import Features, Seen
from refocus_video.types import ByteArray, Candidates, FloatArray, Question, Timeline
from refocus_video.video.candidates import frame_groups
from refocus_video.video.identity import file_identity
from refocus_video.video.reader import VideoReader

logger = logging.getLogger(__name__)

BATCH = 16
"""Pictures that are encoded at a time."""
TEXTS_KEPT = 1024


class Relevance:
    """An image–text model as a scorer."""

    def __init__(
        self,
        model: Any,
        image_processor: Any,
        tokenizer: Any,
        identity: Any,
        *,
        prompt: str = "{question}",
        store: EmbeddingStore | None = None,
    ) -> None:
        """Put together what :meth:`from_pretrained` loads.

        Args:
            model: with ``get_image_features`` and ``get_text_features``.
            image_processor: of the model.
            tokenizer: of the model.
            identity: what tells the model from all others; JSON can hold it.
            prompt: ``{question}`` stands for the question.
            store: where embeddings are kept; None keeps those of the last video in memory alone.

        Raises:
            ConfigError: for a prompt without the question.
        """
        if "{question}" not in prompt:
            raise ConfigError(f"a prompt must say where the question goes, {{question}}; found {prompt!r}")
        self.model = model
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.identity = identity
        self.prompt = prompt
        self.store = store
        self.cut: set[str] = set()
        """Texts that were longer than the model reads."""
        self._texts: dict[str, Features] = {}
        self._last: tuple[weakref.ref[ByteArray], Features] | None = None
        self._last_read: tuple[dict[str, Any], Features] | None = None

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        prompt: str = "{question}",
        store: EmbeddingStore | None = None,
        device: str | torch.device = "cpu",
    ) -> "Relevance":
        """Load a model from a folder or a hub id.

        Raises:
            CheckpointError: if there is none, or it is no image–text model.
        """
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        folder = local_folder(locate(str(name), "relevance"), "image–text model", (*TEXT_FILES, "*.safetensors"))
        try:
            with quiet():
                model, loading = AutoModel.from_pretrained(
                    folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
                )
            if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
                raise CheckpointError(
                    f"{name} holds a {type(model).__name__}, which is no image–text model; give a SigLIP or CLIP"
                )
            image_processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except CheckpointError:
            raise
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise CheckpointError(f"cannot load an image–text model from {name}: {one_line(error)}") from error
        expected = model.state_dict().keys()
        check_names(f"{name}: the weights do not fit its {CONFIG_FILE}", expected - loading["missing_keys"], expected)
        rows = getattr(
            model.config, "text_config", model.config
        ).vocab_size  # not every model finds its text embeddings
        if len(tokenizer) > rows:
            raise CheckpointError(
                f"{name}: the tokenizer has {len(tokenizer)} tokens, but the text tower knows {rows}; "
                "use the tokenizer that comes with the image–text model"
            )
        files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))
        identity = [file_identity(path) for path in files]
        return cls(model.to(device).eval(), image_processor, tokenizer, identity, prompt=prompt, store=store)

    @property
    def scale(self) -> float:
        """What the model multiplies cosines with, 1 where it has no such number."""
        logit_scale = getattr(self.model, "logit_scale", None)
        return 1.0 if logit_scale is None else float(logit_scale.detach().exp())

    @property
    def longest_text(self) -> int:
        """Tokens that the model reads."""
        text = getattr(self.model.config, "text_config", self.model.config)
        return int(min(getattr(text, "max_position_embeddings", 10**9), self.tokenizer.model_max_length))

    def open(self, candidates: Candidates | Timeline) -> "OpenRelevance":
        """Embed the frames of a video, unless that was done before.

        Raises:
            VideoError: when frames must be read and cannot.
            StoreError: when stored embeddings are damaged, or cannot be written.
            CheckpointError: when the model gives numbers that are not finite.
        """
        if isinstance(candidates, Timeline):
            indices = hashlib.sha256(candidates.frame_indices.tobytes()).hexdigest()
            of = {"video": file_identity(candidates.video), "frame_indices": indices}
            if self._last_read is None or self._last_read[0] != of:
                self._last_read = of, self._kept(of, lambda: _frames_of(candidates))
            return OpenRelevance(self, self._last_read[1], candidates.times)
        frames = candidates.frames
        if self._last is None or self._last[0]() is not frames:
            groups = (frames[first : first + BATCH] for first in range(0, len(frames), BATCH))
            features = self._kept(None if self.store is None else pictures_identity(frames), lambda: groups)
            self._last = weakref.ref(frames), features
        return OpenRelevance(self, self._last[1], candidates.times)

    def _kept(self, of: Any, groups: Any) -> Features:
        key = {"frames": of, "model": self.identity}
        found = None if self.store is None else self.store.load(key)
        if found is None:
            found = np.concatenate([self.embed_frames(group) for group in groups()])
            if self.store is not None:
                self.store.save(key, found)
        return found

    @torch.inference_mode()
    def embed_frames(self, frames: ByteArray) -> Features:
        """Embeddings of length 1: (N, H, W, 3) uint8 -> (N, D)."""
        inputs = self.image_processor(images=list(frames), return_tensors="pt", input_data_format="channels_last")
        found = self.model.get_image_features(**{name: _on(self.model, value) for name, value in inputs.items()})
        return self._unit(found, "a picture")

    @torch.inference_mode()
    def embed_text(self, text: str) -> Features:
        """The embedding of a text, of length 1, (D,); a text that is too long is cut, logged and counted in ``cut``."""
        if text not in self._texts:
            tokens = len(self.tokenizer(text, verbose=False)["input_ids"])
            if tokens > self.longest_text and text not in self.cut:
                self.cut.add(text)
                logger.warning(
                    "the image–text model reads %d tokens; a text of %d is cut: %s…",
                    self.longest_text,
                    tokens,
                    text[:60],
                )
            # SigLIP was trained on texts filled up to its limit, and without a mask for what fills them.
            siglip = str(self.model.config.model_type).startswith("siglip")
            inputs = self.tokenizer(
                text,
                padding="max_length" if siglip else False,
                truncation=True,
                max_length=self.longest_text,
                return_tensors="pt",
            )
            wanted = ("input_ids",) if siglip else ("input_ids", "attention_mask")
            found = self.model.get_text_features(
                **{name: inputs[name].to(self.model.device) for name in wanted if name in inputs}
            )
            if len(self._texts) >= TEXTS_KEPT:
                self._texts.pop(next(iter(self._texts)))
            self._texts[text] = self._unit(found, f"the text {text!r}")[0]
        return self._texts[text]

    def _unit(self, found: Any, what: str) -> Features:
        tensor: Tensor = found if isinstance(found, Tensor) else found.pooler_output
        unit: Features = torch.nn.functional.normalize(tensor.float(), dim=-1).cpu().numpy()
        if not np.isfinite(unit).all():
            raise CheckpointError(
                f"the image–text model gives numbers that are not finite for {what}; use other weights"
            )
        return unit


@dataclass(frozen=True, slots=True)
class OpenRelevance:
    """A video with its embeddings."""

    relevance: Relevance
    features: Features
    """Of the candidates, length 1, (F, D)."""
    times: FloatArray

    def see(self, question: Question) -> Seen:
        """The cosines of a question."""
        query = self.relevance.embed_text(self.relevance.prompt.format(question=question.text))
        scores = (self.features @ query).astype(np.float64)
        return Seen(scores, self.features, query, self.times, self.relevance.scale)


def _frames_of(timeline: Timeline) -> Iterator[ByteArray]:
    with VideoReader(timeline.video) as reader:
        size = (reader.info.height, reader.info.width)
        yield from frame_groups(reader, timeline.frame_indices, size, BATCH)


def _on(model: Any, value: Tensor) -> Tensor:
    return value.to(model.device, model.dtype) if value.is_floating_point() else value.to(model.device)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what transformers prints of missing weights, and of its own default settings, out of our lines."""
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
