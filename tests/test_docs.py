"""What the documents say is run: commands parse, Python works, every logged number is explained."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from refocus_video.cli.main import ORDER, app
from refocus_video.config import RunConfig, named_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
SPOKEN = "\n".join(path.read_text(encoding="utf-8") for path in (*PAGES, *sorted((ROOT / "src").rglob("*.py"))))
LINES = re.findall(r"(?:^|(?<=`))refocus [^`\n]+", SPOKEN, re.MULTILINE)
COMMANDS = sorted({line.split("#")[0].strip() for line in LINES})
"""Every command line of the documents and of the help texts."""


def _path(words: list[str]) -> list[str]:
    """The command or group of a command line, without what is given to it: ``index FILM.mp4`` is ``index build``."""
    path: list[str] = []
    room: object = get_command(app)
    for word in words:
        commands = getattr(room, "commands", None)
        if commands is None or word.startswith("-"):
            break
        path.append("build" if path == ["index"] and word not in commands else word)
        assert path[-1] in commands, f"no command {' '.join(['refocus', *path])}"
        room = commands[path[-1]]
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_is_written_about_exists_with_its_options(command: str) -> None:
    _, *words = shlex.split(command)
    result = CliRunner().invoke(app, [*_path(words), "--help"])
    assert result.exit_code == 0, result.output
    known = set(re.findall(r"--[a-z][a-z-]*", result.output))
    for option in (word.partition("=")[0] for word in words if word.startswith("--")):
        assert option in known, f"{command}: no option {option}"


def test_a_command_that_is_not_there_is_noticed() -> None:
    assert _path(["haystack", "generate", "films"]) == ["haystack", "generate"]
    assert _path(["index", "film.mp4"]) == ["index", "build"]
    for words in (["probe", "suppresion"], ["trian", "questions.jsonl"]):
        with pytest.raises(AssertionError, match="no command refocus"):
            _path(words)


def test_help_lists_every_command_in_its_order() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0, result.output
    listed = [re.match(r"  ([a-z-]+)  ", line) for line in result.output.partition("Commands:")[2].splitlines()]
    assert tuple(found[1] for found in listed if found) == ORDER


def test_the_readme_names_only_configurations_that_exist() -> None:
    for name in re.findall(r"--config (\S+)", README):
        assert RunConfig.load(named_config(name)) is not None


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
