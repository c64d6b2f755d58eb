"""Relevance by image–text models, small ones made here, and by subtitles."""

import gc
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from refocus_video.config import SamplingConfig
from refocus_video.errors import CheckpointError, ConfigError, DataError, RefocusWarning, VideoError
from refocus_video.reference.tiny import tiny_tokenizer, words_of
from refocus_video.selectors.embeddings import EmbeddingStore, default_folder
from refocus_video.selectors.known import Parts, make_selector
from refocus_video.selectors.relevance import Relevance
from refocus_video.selectors.scenes import Scenes
from refocus_video.selectors.scored import Features
from refocus_video.selectors.subtitles import WithSubtitles, bm25, cue_scores, read_subtitles
from refocus_video.types import ByteArray, Candidates, Question
from refocus_video.video.candidates import candidate_timeline, load_candidates
from refocus_video.video.reader import VideoReader
from scorers import Given, seen, timeline
from video_clips import write_clip

SIDE = 32
QUESTION = Question("What colour is the ball?", ("red", "blue"))
LAYERS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def _tokenizer(length: int) -> Any:
    tokenizer = tiny_tokenizer(words_of([QUESTION.text, "a photo of man table"]))
    tokenizer.model_max_length = length
    return tokenizer


def _save(folder: Path, kind: str) -> Path:
    torch.manual_seed(0)
    text = {**LAYERS, "vocab_size": 64, "max_position_embeddings": 12}
    tokenizer = _tokenizer(10**30)
    processor: Any
    model: Any
    match kind:
        case "siglip":
            model = SiglipModel(
                SiglipConfig(text_config=text, vision_config={**LAYERS, "image_size": SIDE, "patch_size": 8})
            )
            processor = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
        case "siglip2":
            model = Siglip2Model(
                Siglip2Config(text_config=text, vision_config={**LAYERS, "num_patches": 16, "patch_size": 8})
            )
            processor = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
        case _:
            text |= {"eos_token_id": tokenizer.eos_token_id}
            vision = {**LAYERS, "image_size": SIDE, "patch_size": 8}
            model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
            processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    for part in (model, processor, tokenizer):
        part.save_pretrained(folder)
    return folder


KINDS = ("siglip", "siglip2", "clip")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: _save(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def _candidates(count: int = 20, size: tuple[int, int] = (40, 56), seed: int = 0) -> Candidates:
    frames = np.random.default_rng(seed).integers(0, 256, (count, *size, 3)).astype(np.uint8)
    return Candidates("video.mp4", frames, np.arange(count) * 6, np.arange(count) / 4)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_models_own_cosines(folders: dict[str, Path], kind: str) -> None:
    relevance, candidates = Relevance.from_pretrained(folders[kind]), _candidates()
    shown = relevance.open(candidates).see(QUESTION)
    model: Any = AutoModel.from_pretrained(folders[kind])
    official = {"siglip": SiglipImageProcessorPil, "siglip2": Siglip2ImageProcessorPil, "clip": CLIPImageProcessorPil}
    pictures = official[kind].from_pretrained(folders[kind])(
        images=list(candidates.frames), return_tensors="pt", input_data_format="channels_last"
    )
    ours = relevance.image_processor(
        images=list(candidates.frames), return_tensors="pt", input_data_format="channels_last"
    )
    assert all(torch.equal(ours[name], pictures[name]) for name in pictures)
    words = AutoTokenizer.from_pretrained(folders[kind])(
        QUESTION.text, padding=False if kind == "clip" else "max_length", max_length=12, return_tensors="pt"
    )["input_ids"]
    with torch.no_grad():
        result = model(input_ids=words, **pictures)
    expected = (result.image_embeds @ result.text_embeds.T)[:, 0].numpy()
    assert shown.scores.dtype == np.float64 and np.abs(shown.scores - expected).max() < 1e-5
    assert np.ptp(shown.scores) > 1e-3
    assert shown.scale == pytest.approx(model.logit_scale.exp().item())
    assert np.abs(np.linalg.norm(shown.features, axis=1) - 1).max() < 1e-5
    assert np.array_equal(shown.times, candidates.times)


def _count_looks(monkeypatch: pytest.MonkeyPatch, looked: list[int]) -> None:
    embed = Relevance.embed_frames

    def counted(self: Relevance, frames: ByteArray) -> Features:
        looked.append(len(frames))
        return embed(self, frames)

    monkeypatch.setattr(Relevance, "embed_frames", counted)


def test_embeddings_are_made_once_and_known_by_the_pictures(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, candidates = EmbeddingStore(), _candidates()
    assert store.folder == default_folder()
    first = Relevance.from_pretrained(folders["clip"], store=store).open(candidates).see(QUESTION)
    looked: list[int] = []
    _count_looks(monkeypatch, looked)
    again = Relevance.from_pretrained(folders["clip"], store=store)
    copied = Candidates("copy.mp4", candidates.frames.copy(), candidates.frame_indices, candidates.times)
    assert np.array_equal(again.open(copied).see(QUESTION).scores, first.scores) and not looked
    again.open(_candidates(seed=1))
    assert looked == [16, 4]
    Relevance.from_pretrained(folders["siglip"], store=store).open(candidates)
    assert looked == [16, 4, 16, 4]  # another model's are others


def test_without_a_store_the_last_video_is_remembered(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    relevance, looked = Relevance.from_pretrained(folders["siglip"]), list[int]()
    _count_looks(monkeypatch, looked)
    first, second = _candidates(4), _candidates(4, seed=1)
    for candidates in (first, first, second, second, first):
        relevance.open(candidates)
    assert looked == [4, 4, 4]
    features = relevance.open(first).features
    del first, candidates
    gc.collect()  # the memory of the pictures is not kept, and another video may come to lie where they were
    assert not np.array_equal(relevance.open(_candidates(4, seed=2)).features, features)


def test_frames_are_read_from_the_file_for_a_timeline(folders: dict[str, Path], tmp_path: Path) -> None:
    video = write_clip(tmp_path / "a.mp4", [40 * i for i in range(100)])
    with VideoReader(video) as reader:
        found = candidate_timeline(reader, SamplingConfig())
    candidates = load_candidates(video, (64, 96))
    relevance = Relevance.from_pretrained(folders["clip"], store=EmbeddingStore(tmp_path / "store"))
    whole = relevance.open(candidates)
    streamed = relevance.open(found)
    assert np.abs(whole.features - streamed.features).max() < 1e-5
    picks = make_selector("bolt", Parts(scorer=relevance)).open(candidates).pick([QUESTION], 4)
    assert len(picks[0].positions) == 4
    (stored, _) = (tmp_path / "store").iterdir()
    moved = found.__class__(str(tmp_path / "b.mp4"), found.frame_indices, found.times)
    with pytest.raises(VideoError, match=r"b\.mp4"):
        relevance.open(moved)
    assert stored.exists()


def test_several_selectors_read_a_file_once(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = write_clip(tmp_path / "a.mp4", [40 * i for i in range(100)])
    with VideoReader(video) as reader:
        found = candidate_timeline(reader, SamplingConfig())
    relevance, looked = Relevance.from_pretrained(folders["siglip"]), list[int]()
    _count_looks(monkeypatch, looked)
    first = relevance.open(found).features
    assert sum(looked) == len(found) and relevance.open(found).features is first
    half = found.__class__(found.video, found.frame_indices[::2], found.times[::2])
    assert len(relevance.open(half).features) == len(half.times) and sum(looked) == len(found) + len(half.times)


def test_a_long_text_is_cut_told_once_and_counted(folders: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    for kind in KINDS:
        relevance = Relevance.from_pretrained(folders[kind])
        assert relevance.longest_text == 12
        long = " ".join(["red ball"] * 20)
        with caplog.at_level(logging.WARNING):
            first = relevance.embed_text(long)
            relevance.embed_text(long)
        assert relevance.cut == {long}
        assert caplog.text.count("reads 12 tokens; a text of 4") == 1  # SigLIP 2 adds an end
        assert np.isfinite(first).all()
        relevance.embed_text("red ball")
        assert len(relevance.cut) == 1
        caplog.clear()


def test_a_prompt_stands_around_the_question(folders: dict[str, Path]) -> None:
    plain = Relevance.from_pretrained(folders["clip"])
    prompted = Relevance.from_pretrained(folders["clip"], prompt="a photo of {question}")
    candidates = _candidates(3)
    query = prompted.open(candidates).see(Question("table")).query
    assert np.array_equal(query, plain.embed_text("a photo of table"))
    assert not np.array_equal(query, plain.open(candidates).see(Question("table")).query)
    assert prompted.open(candidates).see(Question("a {b}")).query.shape == (24,)
    with pytest.raises(ConfigError, match="where the question goes"):
        Relevance.from_pretrained(folders["clip"], prompt="a photo")


def test_what_is_no_image_text_model_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no image–text model at"):
        Relevance.from_pretrained(tmp_path / "none")
    with pytest.raises(CheckpointError, match=f"cannot load an image–text model from {tmp_path}"):
        Relevance.from_pretrained(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(folders["clip"], broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="image–text model"):
        Relevance.from_pretrained(broken)
    spoilt = Relevance.from_pretrained(folders["clip"])
    with torch.no_grad():
        spoilt.model.visual_projection.weight.fill_(torch.nan)
    with pytest.raises(CheckpointError, match="not finite for a picture"):
        spoilt.open(_candidates(2))


def test_damaged_embeddings_are_named_and_old_ones_make_room(tmp_path: Path) -> None:
    store, features = EmbeddingStore(tmp_path / "s"), np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    store.save({"a": 1}, features)
    found = store.load({"a": 1})
    assert found is not None and np.array_equal(found, features) and store.load({"a": 2}) is None
    path = store.path({"a": 1})
    whole = path.read_bytes()
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:100], b""):
        path.write_bytes(damaged)
        with pytest.warns(RefocusWarning, match=r"is damaged.*it is made again"):
            assert store.load({"a": 1}) is None
    shutil.copy(path, store.path({"a": 2}))
    small = EmbeddingStore(tmp_path / "small", limit_bytes=3 * (len(whole) + 50))
    for number in range(5):
        small.save({"a": number}, features)
        os.utime(small.path({"a": number}), ns=(number, number))
        if number == 2:
            small.load({"a": 0})  # used again
    assert [small.load({"a": number}) is not None for number in range(5)] == [True, False, False, True, True]
    (tmp_path / "file").write_text("")
    with pytest.warns(RefocusWarning, match="cannot keep embeddings in .*going on without"):
        EmbeddingStore(tmp_path / "file").save({}, features)


SRT = """1
00:00:01,000 --> 00:00:02,500
Hello <i>there</i>,
how are you?

2
00:00:10,000 --> 00:00:12,000
The red ball lies on the table.

3
00:00:20,000 --> 00:00:21,000
A ball again.
"""
VTT = "WEBVTT\n\n" + SRT.replace(",000 ", ".000 ").replace(",500", ".500").replace(",000\n", ".000\n")


@pytest.mark.parametrize(("suffix", "text"), [(".srt", SRT), (".srt", "\ufeff" + SRT), (".vtt", VTT)])
def test_subtitles_are_read(tmp_path: Path, suffix: str, text: str) -> None:
    path = tmp_path / f"video{suffix}"
    path.write_text(text, encoding="utf-8")
    cues = read_subtitles(path)
    assert [(cue.start_s, cue.end_s) for cue in cues] == [(1.0, 2.5), (10.0, 12.0), (20.0, 21.0)]
    assert cues[0].text == "Hello there, how are you?"


def test_unreadable_subtitles_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no subtitle file at"):
        read_subtitles(tmp_path / "none.srt")
    (tmp_path / "a.srt").write_text("nothing of the kind")
    (tmp_path / "b.srt").write_bytes(SRT.replace("ball", "b\xe4ll").encode("latin-1"))
    for name in ("a.srt", "b.srt"):
        with pytest.raises(DataError, match=rf"{name} is not readable as subtitles in UTF-8"):
            read_subtitles(tmp_path / name)


def test_a_rare_word_counts_more_and_a_long_text_less() -> None:
    scores = bm25("red Ball", ["the red ball", "a ball", "a ball in a very long text about everything else", "none"])
    assert scores[0] > scores[1] > scores[2] > scores[3] == 0
    assert bm25("", ["a"]).tolist() == [0] and bm25("a", []).tolist() == []


def test_candidates_near_a_fitting_cue_are_relevant(tmp_path: Path) -> None:
    path = tmp_path / "video.srt"
    path.write_text(SRT)
    times = np.arange(120) / 4
    scores = cue_scores("Where is the red ball?", read_subtitles(path), times, reach_s=1.0)
    assert np.flatnonzero(scores == scores.max()).tolist() == list(range(36, 53))  # 9 s to 13 s
    assert scores[80] > 0 and scores[0] == scores[60] == 0
    assert cue_scores("x", [], times).tolist() == [0.0] * 120


def test_subtitles_are_a_second_stream(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "video.srt"
    path.write_text(SRT)
    shown = seen(np.linspace(0.1, 0.3, 120))
    question = Question("Where is the red ball?")
    both = WithSubtitles(Given(shown), weight=0.75, find=lambda video: path).open(timeline(120)).see(question)
    assert both.scores.min() >= 0.1 and both.scores.max() <= 0.3  # in the range of the pictures' own
    assert 40 <= both.scores.argmax() <= 56
    for weight, expected in ((0.0, 119), (1.0, 32)):
        mixed = WithSubtitles(Given(shown), weight=weight, find=lambda video: path).open(timeline(120))
        assert mixed.see(question).scores.argmax() == expected
    assert np.array_equal(mixed.see(Question("zebra")).scores, shown.scores)
    alone = WithSubtitles(Given(shown))
    for _ in range(2):
        assert np.array_equal(alone.open(timeline(120)).see(question).scores, shown.scores)
    assert alone.missing == {"video.mp4"} and caplog.text.count("no subtitles beside video.mp4") == 1
    with pytest.raises(ConfigError, match="between 0 and 1, found 2"):
        WithSubtitles(Given(shown), weight=2)


def test_scene_cuts_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scenedetect")
    import av

    video = tmp_path / "cuts.mp4"
    with av.open(str(video), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 64
        for number in range(90):
            colour = [(200, 30, 30), (20, 200, 40), (10, 20, 220)][number // 30]
            picture = np.full((64, 64, 3), colour, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    candidates = load_candidates(video, (16, 16))
    pick = Scenes().open(candidates).pick([QUESTION], 3)[0]
    assert np.abs(candidates.times[pick.positions] - [1.5, 4.5, 7.5]).max() < 0.3
    with pytest.raises(VideoError, match="PySceneDetect cannot look for cuts"):
        Scenes().open(timeline(9))
    monkeypatch.setitem(__import__("sys").modules, "scenedetect", None)
    with pytest.raises(ConfigError, match=r"scene cuts need PySceneDetect.*refocus-video\[scenes\]"):
        Scenes().open(candidates)
