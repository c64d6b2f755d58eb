"""Selectors × answering models × budgets × question files, from files to results: what `refocus eval` and the demo run.

Every folder it writes says what it is of (``evaluation.json``), holds one row for every question, selector, budget and model
(``rows.jsonl``), the frames behind them (``selections.jsonl``), and what they amount to (``results.json``, ``report.html``).
Several question files get a folder each below ``output``, and one more page there about all of them.
"""

import hashlib
import json
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import yaml

from refocus_video.assets import locate
from refocus_video.config import ReferenceConfig, RunConfig
from refocus_video.data.examples import fingerprint, read_examples
from refocus_video.data.selections import Chosen, check_same_pools, read_selections
from refocus_video.device import resolve
from refocus_video.errors import ConfigError, DataError
from refocus_video.evaluate.answer import Answering
from refocus_video.evaluate.choose import Choosing
from refocus_video.evaluate.judge import ModelJudge
from refocus_video.evaluate.metrics import BASELINE, summarise
from refocus_video.evaluate.overview import Overview, survey, write_overview
from refocus_video.evaluate.report import build_filmstrips, write_report
from refocus_video.evaluate.run import FILES, evaluate, units
from refocus_video.evaluate.runs import Runs, load_runs
from refocus_video.evaluate.stages import FILE as STAGES
from refocus_video.evaluate.stages import read_stages
from refocus_video.evaluate.text import wordnet_similarity
from refocus_video.files import write_json
from refocus_video.pipeline import none_usable
from refocus_video.policy.policy import FramePolicy
from refocus_video.reference.base import AnsweringModel, ReferenceModel
from refocus_video.selectors.base import Selector
from refocus_video.selectors.known import Parts, make_selector, makeable
from refocus_video.selectors.learned import LastIndex
from refocus_video.selectors.relevance import Relevance
from refocus_video.train.setup import load_reference, usage_of
from refocus_video.train.views import weights_digest
from refocus_video.types import Example, Progress
from refocus_video.video.identity import file_identity

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Spec:
    """A part by name with settings, written ``name,key=value,key=value`` on the command line."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """Read the written form; values are YAML.

        Raises:
            ConfigError: if it is not of that form.
        """
        name, *pairs = re.split(r",(?![^\[{]*[\]}])", text)  # commas inside brackets belong to a value
        settings = {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not (name and key and equals):
                raise ConfigError(f"expected name,key=value,key=value, found {text!r}")
            try:
                settings[key] = yaml.safe_load(value)
            except yaml.YAMLError:
                raise ConfigError(f"{text!r}: {value!r} is not readable as YAML") from None
        return cls(name, settings)

    def __str__(self) -> str:
        return ",".join([self.name, *(f"{key}={value}" for key, value in self.settings.items())])


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared."""

    selectors: tuple[Spec, ...]
    models: tuple[ReferenceConfig, ...]
    budgets: tuple[int, ...]
    selections: tuple[Path, ...] = ()
    """Selection files made before, by us or by others, beside or in place of selectors."""
    controls: bool = True
    """Whether the oracle, the query-blind and the wrong-question control run as well."""
    baseline: str = BASELINE
    in_words: bool = False
    """Whether options are answered by a written letter instead of the likeliest one."""
    judge: ReferenceConfig | None = None
    """Who says whether an answer to a question without options is right; None compares the words."""
    wups: bool = False
    """Whether WUPS is measured as well, which needs nltk and WordNet."""

    def __post_init__(self) -> None:
        if not self.budgets or min(self.budgets) < 1:
            raise ConfigError(f"budgets must be whole numbers of at least 1, found {list(self.budgets)}")
        if not self.selectors and not self.selections:
            raise ConfigError("nothing to compare: name a selector or a selection file")


@dataclass(frozen=True, slots=True)
class Story:
    """What a report tells besides the evaluation."""

    title: str = "Evaluation of frame selection"
    history: Sequence[Row] = ()
    """Of the training's ``metrics.jsonl``."""
    warnings: Sequence[str] = ()
    """That training gave."""
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds of what came before."""
    main_budget: int | None = None
    """The budget told first; the middle one if None."""


POLICY = "policy"
ALL = "all"
"""Stands for every selector that can be made of the parts beside it."""


def default_selectors(policy: str, seed: int) -> tuple[Spec, ...]:
    """The policy, most probable and sampled, against even spacing and chance."""
    return (
        Spec("uniform"),
        Spec("random", {"seed": seed}),
        Spec(POLICY, {"policy": policy}),
        Spec(POLICY, {"policy": policy, "name": "policy-sampled", "picking": {"temperature": 1.0, "seed": seed}}),
    )


def named_selectors(texts: Sequence[str], policy: str) -> tuple[list[Spec], dict[str, str]]:
    """What the written forms of selectors name, ``all`` spelled out; and why ``all`` leaves some out, by name.

    Args:
        texts: ``name,key=value,…`` of each.
        policy: folder or hub id of the policy for those that want one and name none.

    Raises:
        ConfigError: if a text is not of that form, or gives ``all`` a setting that is no part.
    """
    specs: list[Spec] = []
    left_out: dict[str, str] = {}
    for spec in map(Spec.parse, texts):
        settings = {POLICY: policy} | spec.settings if spec.name in (POLICY, ALL) else spec.settings
        if spec.name != ALL:
            specs.append(Spec(spec.name, settings))
            continue
        known = {POLICY: POLICY, "relevance": "scorer"}
        if unknown := sorted(settings.keys() - known):
            raise ConfigError(f"selector {ALL!r} takes {' and '.join(known)}, found {', '.join(unknown)}")
        made, left_out = makeable([known[key] for key, value in settings.items() if value is not None])
        specs += [Spec(one.name, one.settings | settings) for one in made]
    return specs, left_out


def run_comparison(
    questions: Sequence[Path],
    comparison: Comparison,
    output: Path,
    config: RunConfig,
    progress: Progress,
    story: Story = Story(),
) -> dict[str, dict[str, Any]]:
    """Run everything that is not yet in ``output``; returns ``results.json`` of each question file by its name."""
    files = {path.stem: path for path in questions}
    if len(files) < len(questions):
        raise DataError(f"question files need different names, found {[str(path) for path in questions]}")
    examples = {name: read_examples(path) for name, path in files.items()}
    device = resolve(config.compute.device)
    selectors, digests = load_selectors(comparison.selectors, device)
    answering = [(model_name(model), load_reference(model, str(device))) for model in comparison.models]
    models = {model_name(model): folder_identity(locate(model.model, "reference")) for model in comparison.models}
    if len({name for name, _ in answering}) < len(answering):
        raise ConfigError(f"answering models need different names, found {[name for name, _ in answering]}")
    judge = (
        None if comparison.judge is None else ModelJudge(answering_model(load_reference(comparison.judge, str(device))))
    )
    similarity = wordnet_similarity() if comparison.wups else None
    if comparison.in_words or any(example.accepted for group in examples.values() for example in group):
        answering = [(name, answering_model(model)) for name, model in answering]
    results: dict[str, dict[str, Any]] = {}
    for name, group in examples.items():
        results[name] = _one_file(
            name,
            group,
            selectors,
            [
                Answering(model, called, name, comparison.in_words, judge=judge, similarity=similarity)
                for called, model in answering
            ],
            comparison,
            output if len(files) == 1 else output / name,
            config,
            digests | models | {"questions": fingerprint(group)},
            progress,
            story,
        )
    if len(files) > 1:
        write_overview(_survey(load_runs([output / name for name in files]), comparison), output)
    return results


def folder_identity(source: str) -> str:
    """A short name for the files of a model's folder, so that rows of other weights are not gone on with; a hub id is its own."""
    folder = Path(source)
    if not folder.is_dir():
        return source
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".bin"))
    return hashlib.sha256(json.dumps([file_identity(path) for path in files]).encode()).hexdigest()[:16]


def answering_model(model: ReferenceModel) -> AnsweringModel:
    """The same model, which must be able to write.

    Raises:
        ConfigError: if it cannot: several models that judge together have no answer of their own.
    """
    if not hasattr(model, "generate"):
        raise ConfigError(f"{type(model).__name__} gives scores, but answers nothing in words; name a single model")
    return cast(AnsweringModel, model)


def model_name(config: ReferenceConfig) -> str:
    """How an answering model is called in results: the last part of its id or folder."""
    return config.model.rstrip("/").rsplit("/", 1)[-1]


def load_selectors(specs: Sequence[Spec], device: torch.device | str = "auto") -> tuple[list[Selector], dict[str, str]]:
    """The selectors, and digests of the weights of the policies among them.

    Two settings name what several selectors may share: ``policy`` a folder or hub id with one, ``relevance`` that of an
    image–text model.
    """
    device = resolve(device)
    policies: dict[str, FramePolicy] = {}
    indexes: dict[str, LastIndex] = defaultdict(LastIndex)
    scorers: dict[str, Any] = {}
    made: list[Selector] = []
    for spec in specs:
        settings = dict(spec.settings)
        policy, relevance = settings.pop("policy", None), settings.pop("relevance", None)
        if policy is not None and policy not in policies:
            policies[policy] = FramePolicy.from_pretrained(locate(str(policy), "policy"), device, "auto")
        if relevance is not None and relevance not in scorers:
            scorers[relevance] = Relevance.from_pretrained(locate(str(relevance), "relevance"), device=device)
        parts = Parts(scorers.get(relevance), policies.get(policy), indexes[policy] if policy in policies else None)
        made.append(make_selector(spec.name, parts, **settings))
    names = [selector.name for selector in made]
    if len(set(names)) < len(names):
        raise ConfigError(f"selectors need different names, found {', '.join(names)}; give one of them name=…")
    return made, {source: weights_digest(policy.state_dict()) for source, policy in policies.items()}


def _one_file(
    name: str,
    examples: list[Example],
    selectors: Sequence[Selector],
    answering: Sequence[Answering],
    comparison: Comparison,
    output: Path,
    config: RunConfig,
    fingerprints: dict[str, str],
    progress: Progress,
    story: Story,
) -> dict[str, Any]:
    plan = Choosing(
        selectors=tuple(selectors),
        budgets=comparison.budgets,
        sampling=config.sampling,
        ideals=("query-blind", "oracle") if comparison.controls else (),
        wrong_question_of=POLICY if comparison.controls else None,
        seed=config.train.seed,
    )
    given = [row for path in comparison.selections for row in _given(path, examples, comparison.budgets)]
    names = dict.fromkeys([*plan.names, *(row.selector for row in given)])
    if comparison.baseline not in (BASELINE, *names):
        raise ConfigError(f"the baseline {comparison.baseline!r} is not among those compared: {', '.join(names)}")
    settings = {
        "sampling": config.sampling.model_dump(mode="json"),
        "seed": config.train.seed,
        "selectors": [str(spec) for spec in comparison.selectors],
        "selections": [str(path) for path in comparison.selections],
        "models": [model.model_dump(mode="json") for model in comparison.models],
        "in_words": comparison.in_words,
        "wups": comparison.wups,
        "judge": None if comparison.judge is None else comparison.judge.model_dump(mode="json"),
        "fingerprints": fingerprints,
    }
    begun = time.perf_counter()
    with progress(f"evaluating {name}", units(examples, len(answering))) as advance:
        rows = evaluate(examples, answering, plan, output, settings, advance, given=given)
    reasons = {row["video"]: row["error"] for row in rows if row["error"]}
    if all(row["error"] for row in rows):
        for file in (*FILES, STAGES):  # or running again would not look at the videos again
            (output / file).unlink()
        raise none_usable(reasons)
    results = {
        "dataset": name,
        "rows": [
            {"dataset": name, "model": model.name} | line
            for model in answering
            for line in summarise([row for row in rows if row["model"] == model.name], baseline=comparison.baseline)
        ],
        "settings": settings,
        "timings": {**story.timings, "evaluation": round(time.perf_counter() - begun, 1)},
        "failures": [
            {"video": video, "reason": reason, "questions": sum(e.video == video for e in examples)}
            for video, reason in reasons.items()
        ],
        "stages": read_stages(output),
        "usage": [row for model in answering for row in usage_of(model.model)],
    }
    write_json(output / "results.json", results)
    if len(answering) == 1 and {POLICY, "uniform"} <= set(plan.names):
        write_report(
            output,
            title=story.title,
            results=results,
            rows=rows,
            history=story.history,
            warnings=story.warnings,
            filmstrips=build_filmstrips(rows, story.main_budget),
            settings=settings,
            budget=story.main_budget,
        )
    else:
        runs = Runs(tuple(rows), {str(output): {"settings": settings}}, tuple(read_stages(output)))
        write_overview(_survey(runs, comparison), output, f"Ways of picking frames: {name}")
    return results


def _survey(runs: Runs, comparison: Comparison) -> Overview:
    return survey(runs, comparison.baseline if comparison.baseline in runs.selectors else None)


def _given(path: Path, examples: Sequence[Example], budgets: Sequence[int]) -> list[Chosen]:
    """The rows of a selection file for these questions and budgets; what it lacks is in the table as a failure."""
    rows = read_selections(path).rows
    held = sorted({row.budget for row in rows})
    if lacking := [str(budget) for budget in budgets if budget not in held]:
        raise DataError(
            f"{path} holds no selections of {', '.join(lacking)} frames, only of {', '.join(map(str, held))}; "
            "leave out --budgets to take those"
        )
    found = [row for row in rows if row.budget in budgets]
    check_same_pools(found)
    known = {(row.id, row.selector, row.budget): row for row in found}
    names = dict.fromkeys(row.selector for row in found)
    if not any(row.id == example.id for row in found for example in examples):
        raise DataError(f"{path} has no selection of {list(budgets)} frames for any of the {len(examples)} questions")
    return [
        known.get((example.id, name, budget)) or _missing(example, name, budget, path)
        for name in names
        for budget in budgets
        for example in examples
    ]


def _missing(example: Example, selector: str, budget: int, path: Path) -> Chosen:
    return Chosen(
        id=example.id,
        video=example.video,
        question=example.question.text,
        selector=selector,
        budget=budget,
        frame_indices=[],
        error=f"{path.name} has no row for this question",
    )
