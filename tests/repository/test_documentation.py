"""The documentation names only files, anchors, commands and options that exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import typer.main
from support.configuration_page import PAGE, configuration_page
from support.repository import ROOT

from streamclf.config.service import ServiceConfig

PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "tests").rglob("*.md"),
        *(ROOT / "streamclf").rglob("*.md"),
    ]
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"`((?:engines|streamclf|training|tests|configs|docs|\.ci)/[\w./-]*)")
MODULE = re.compile(r"`((?:engines|streamclf|training)(?:\.\w+)+)")
EXAMPLES = {
    "tests/streamclf/sources/test_pattern.py",  # docs/development/adding.md: a reader creates them
    "streamclf/sources/pattern.py",
    "streamclf.engines",  # docs/adr/0001: packages that were rejected
    "streamclf.training",
    "streamclf.db",
    "streamclf.db.lock",
    "streamclf.db.outlets",
    "streamclf/status",  # MQTT topics
    "streamclf/lost",
}
"""Names in the pages that look like files or modules of the repository and are not."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    text = FENCE.sub("", page.read_text())
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_existing_files_and_headings(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_relative_to(ROOT), f"{target} leaves the repository"
        assert file.exists(), f"{target} does not exist"
        if anchor:
            assert anchor in anchors_of(file), f"{target}: no such heading; there are {sorted(anchors_of(file))}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_markers_of_a_merge_conflict_are_left(page: Path) -> None:
    assert not re.search(r"^(<{7}|>{7}) ", page.read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_and_modules_exist(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return  # an entry names the files of its time
    text = page.read_text()
    for file in FILE.findall(text):
        if file.rstrip(".") not in EXAMPLES and "NAME" not in file and not file.startswith("streamclf/door"):
            assert (ROOT / file.rstrip(".")).exists(), f"{file} does not exist"
    for module in set(MODULE.findall(text)) - EXAMPLES:
        path = ROOT.joinpath(*module.split("."))
        found = path.is_dir() or path.with_suffix(".py").exists() or is_attribute(module)
        assert found, f"{module} does not exist"


def is_attribute(name: str) -> bool:
    """Tell whether `a.b.C` names something that module `a.b` mentions, or the name is part of the public API."""
    module, _, attribute = name.rpartition(".")
    while module:
        path = ROOT.joinpath(*module.split("."))
        file = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
        if file.exists():
            return re.search(rf"\b{attribute}\b", file.read_text()) is not None
        module, _, attribute = module.rpartition(".")
    return False


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_page_is_reachable_from_the_index(page: Path) -> None:
    """Every page of docs/ is reachable by links from docs/README.md or the README."""
    if not page.is_relative_to(ROOT / "docs"):
        return
    assert page in reachable()


@cache
def reachable() -> frozenset[Path]:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]
        waiting += [(page.parent / target.partition("#")[0]).resolve() for target in targets]
    return frozenset(seen)


def commands_of(page: Path) -> Iterator[list[str]]:
    """Return the words of each command line in a page's code blocks."""
    for language, block in FENCE.findall(page.read_text()):
        if language in ("", "sh", "console", "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                line = line.strip().removeprefix("$ ")
                if re.match(r"(streamclf|python -m training)\b(?! +├)", line):
                    line = re.split(r"\s{2,}#|\s#\s|\s{4,}", line)[0].split("  ")[0]
                    yield shlex.split(line.replace("[", "").replace("]", "").replace("...", "").replace("…", ""))


def click_app(words: list[str]) -> tuple[click.Command, list[str]]:
    if words[0] == "streamclf":
        from streamclf.cli import app

        return typer.main.get_command(app), words[1:]
    pytest.importorskip("torch", reason="training needs torch")
    from training.__main__ import app as training_app

    return typer.main.get_command(training_app), words[3:]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_options_are_known(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return
    for words in commands_of(page):
        app, rest = click_app(words)
        assert isinstance(app, click.Group) or hasattr(app, "commands")
        if not rest or rest[0].startswith("-") or rest[0] == "CONFIG" or rest[0].isupper():
            continue
        names = rest[0].split("|")
        for name in names:
            command = app.commands.get(name)  # type: ignore[attr-defined]
            assert command is not None, f"{' '.join(words)}: no command {name!r}"
            known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
            for word in rest[1:]:
                if word.startswith("-") and len(word) > 1 and not word.lstrip("-").replace(".", "").isdigit():
                    option = word.partition("=")[0]
                    if option in ("|", "&&", ">"):
                        break
                    assert option in known | {"--help"}, f"{' '.join(words)}: no option {option}"


def test_the_configuration_reference_is_up_to_date() -> None:
    assert PAGE.read_text() == configuration_page(), "run: make docs"


def test_the_configuration_page_lists_the_keys_of_every_section() -> None:
    text = configuration_page()
    for section, schema in ServiceConfig.model_json_schema()["$defs"].items():
        missing = [key for key in schema.get("properties", {}) if f"| `{key}` |" not in text]
        assert not missing, f"{section}: list it in tests/support/configuration_page.py"
