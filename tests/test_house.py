"""The house rules: imports go down only, importing is cheap, settings are strict."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import refocus_video
from refocus_video.config import RunConfig
from refocus_video.errors import ConfigError
from refocus_video.settings import Settings

PACKAGE = Path(refocus_video.__file__).parent
CONFIGS = sorted((PACKAGE / "configs").glob("*.yaml"))

FLOORS = {
    0: {"errors", "types", "config", "settings", "files", "assets", "configs", "registry", "version", "device", "hub"},
    1: {"video", "data", "policy", "reference"},
    2: {"selectors", "scoring"},
    3: {"train", "evaluate"},
}
APART = {"selectors": {"reference"}}
"""What may not be imported although it lies lower: a selector must not see who scores it."""
TOP = 4


def _floor(room: str) -> int:
    return next((floor for floor, rooms in FLOORS.items() if room in rooms), TOP)


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imported_rooms(path: Path) -> set[str]:
    """Rooms of the package that a file imports anywhere in it, also inside functions."""
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: imports are written in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            if package == "refocus_video":
                rooms.add(rest.split(".")[0] if rest and not rest.startswith("__") else "__init__")
    return rooms


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    own = _room(path)
    for other in _imported_rooms(path) - {own}:
        if _floor(own) == TOP:
            continue
        assert _floor(other) < _floor(own) or _floor(own) == 0 == _floor(other), f"{own} must not import {other}"
        assert other not in APART.get(own, set()), f"{own} must not import {other}"


def _private_names(text: str) -> set[str]:
    """Names with an underscore that a file takes from other modules of the package."""
    tree = ast.parse(text)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    own = [alias for node in imports if str(node.module).startswith("refocus_video") for alias in node.names]
    modules = {alias.asname or alias.name for alias in own if alias.name.islower()}
    taken = {alias.name for alias in own}
    taken |= {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
    }
    return {name for name in taken if name.startswith("_") and not name.startswith("__")}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_room_takes_what_is_private_in_another(path: Path) -> None:
    assert _private_names(path.read_text(encoding="utf-8")) == set()


def test_the_check_of_private_names_sees_both_ways() -> None:
    text = "from refocus_video.video import sheet\nfrom refocus_video.files import _a, b\nsheet._font(b)\n"
    assert _private_names(text) == {"_a", "_font"}


def test_the_floor_check_sees_every_kind_of_import(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(
        "import refocus_video.train.loss\nfrom refocus_video import selectors\n"
        "def f():\n    from refocus_video.policy.pick import pick_frames\n",
        encoding="utf-8",
    )
    assert _imported_rooms(path) == {"train", "selectors", "policy"}
    assert len(SOURCES) > 40


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, refocus_video, refocus_video.errors\n"
        "heavy = {'torch', 'transformers', 'av', 'numpy', 'pydantic', 'accelerate', 'matplotlib'}\n"
        "sys.exit(' '.join(sorted(heavy & set(sys.modules))) or None)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_front_door_opens_every_name_it_lists() -> None:
    for name in refocus_video.__all__ * 2:
        assert getattr(refocus_video, name).__name__ == name


def test_the_front_door_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = refocus_video.no_such_name


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_configuration_file_parses(path: Path) -> None:
    config = RunConfig.load(path)
    assert RunConfig.parse(config.model_dump(mode="json"), "what is saved beside results") == config


def test_there_is_a_configuration_to_parse() -> None:
    assert CONFIGS


def test_an_override_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("train: {seed: 3, max_steps: 7}\n", encoding="utf-8")
    config = RunConfig.load(path, ("train.seed=5", "train.entropy_target=[0.9, 0.2]", "reference.model=a=b"))
    assert (config.train.seed, config.train.max_steps, config.train.num_generations) == (5, 7, 16)
    assert config.train.entropy_target == (0.9, 0.2)
    assert config.reference.model == "a=b"
    assert RunConfig.load(None) == RunConfig()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trian: {}", r"unknown setting 'trian'.*; known ones here: sampling, policy, .*train$"),
        ("train: {sed: 1}", r"unknown setting 'train.sed'.*; known ones here: seed, max_steps, .*save_steps"),
        (
            "train: {stages: [{until: 1, budgets: [1], type: x}]}",
            r"unknown setting 'train.stages.0.type'.*; known ones here: until, budgets, question_types$",
        ),
        ("policy: {vision: {size: 3}}", r"unknown setting 'policy.vision.size'; known ones here: hidden_size"),
        ("train: {seed: many}", r"setting 'train.seed': .*integer.*, found 'many'"),
        ("train: {max_steps: 0}", r"setting 'train.max_steps': .*greater than or equal to 1, found 0"),
        ("reference: {answer_mode: luck}", r"setting 'reference.answer_mode': .*'letters'.*found 'luck'"),
        ("reference: {control: []}", r"setting 'reference.control': .*at least 1 item"),
        ("policy: {d_model: 100, headdim: 64}", r"setting 'policy': .*expand·d_model 200 must be a multiple"),
        ("[1, 2]", r"expected a mapping of settings, found list"),
        ("a: [", r"not readable as YAML"),
        ("", r"holds no settings; the defaults need no file"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said) as caught:
        RunConfig.load(path)
    assert str(caught.value).startswith((f"{path}: ", f"{path} holds"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.seed", "an override is written key=value, found 'train.seed'"),
        ("=3", "an override is written key=value"),
        ("train.seed.deep=3", "unknown setting|not a group"),
        ("train.seed=[1,", r"override 'train.seed=\[1,': not readable as YAML"),
        ("train.sed=1", "^override train.sed: unknown setting 'train.sed'.*; known ones here: seed"),
        ("trian.seed=1", "^override trian.seed: unknown setting 'trian'"),
        ("train.max_steps=0", "^override train.max_steps: setting 'train.max_steps': .*found 0"),
    ],
)
def test_a_wrong_override_is_named(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RunConfig.load(None, ("train.seed=1", override))


def test_a_missing_or_unreadable_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file at"):
        RunConfig.load(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("# é".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml: not readable"):
        RunConfig.load(tmp_path / "latin.yaml")


def test_settings_cannot_be_changed_after_the_fact() -> None:
    class Small(Settings):
        size: int = 1

    with pytest.raises(ValueError, match="frozen"):
        Small().size = 2
