"""What the documents say is run: commands parse, Python works, every logged number is explained."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from refocus_video.cli.main import app
from refocus_video.config import RunConfig, named_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted({line.split("#")[0].strip() for line in README.splitlines() if line.startswith("refocus ")})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_readme_command_exists(command: str) -> None:
    _, *words = shlex.split(command)
    options = [word for word in words if word.startswith("--")]
    names = [word for word in words if re.fullmatch(r"[a-z-]+", word) and not word.startswith("-")]
    groups = {group.name for group in app.registered_groups}
    path = names[:2] if names[0] in groups else names[:1]
    if path[0] == "index" and path[1:] not in (["ls"], ["rm"], ["prune"]):
        path = ["index", "build"]  # what `refocus index VIDEO` stands for
    result = CliRunner().invoke(app, [*path, "--help"])
    assert result.exit_code == 0, result.output
    for option in options:
        assert option in result.output, f"{command}: no option {option}"


def test_the_readme_names_only_configurations_that_exist() -> None:
    for name in re.findall(r"--config (\S+)", README):
        assert RunConfig.load(named_config(name)) is not None


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
