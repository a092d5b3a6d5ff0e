"""The documentation is true where a program can tell: code runs, commands parse, links resolve, nothing is left out."""

from __future__ import annotations

import itertools
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pydantic
import pytest
import typer
import yaml

from lissom.cli import app
from lissom.graph.graph import ChannelGroup, ChannelMember, Graph
from lissom.lifelong import EWC, Grow, LwF, Pack, ProgressAndCompress
from lissom.measure import lifelong as lifelong_records
from lissom.measure import records
from lissom.measure.search_records import LayerEffect, LayerSensitivity, Moved, SearchTrial
from lissom.measure.synthesis import Signs, SynthesisPoint, SynthesisRecord
from lissom.pipeline import DataFree, measuring
from lissom.runfolder import Manifest, Source
from lissom.search import Foreseen
from lissom.sources.settings import SourceSettings
from lissom.target import Dynamic, Integers
from lissom.task import Task
from lissom.training.synthesis.settings import Synthesis
from lissom.transforms.architecture import Supernet
from lissom.transforms.base import Transform
from lissom.transforms.finetuning import Finetune
from lissom.transforms.folding import Fold
from lissom.transforms.lowrank import Factorize
from lissom.transforms.pruning import Outlook
from lissom.transforms.quantization import Quantize
from lissom.transforms.sparsity import Sparsify

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TOP = [ROOT / name for name in ("README.md", "README.zh.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES = [*TOP, *sorted(DOCS.rglob("*.md"))]
NO_RUN = "<!-- no-run -->"

FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> Iterator[tuple[int, str]]:
    """Line number and code of each fenced block in one of the languages, unless a `no-run` comment precedes it."""
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        before = text[: match.start()].rstrip("\n")
        if match["language"] in languages and not before.endswith(NO_RUN):
            yield before.count("\n") + 2, match["code"]


def with_python(pages: Sequence[Path]) -> list[Path]:
    return [page for page in pages if any(blocks(page, "python"))]


# Python -----------------------------------------------------------------------------------------------------


def run_page(page: Path) -> None:
    """All blocks of a page, in one namespace, with the page's own line numbers in tracebacks."""
    namespace: dict[str, Any] = {"__name__": "page"}
    for line, code in blocks(page, "python"):
        exec(compile("\n" * line + code, name_of(page), "exec"), namespace)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's code has made `runs/tiny`: other pages read that run."""
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_page(ROOT / "README.md")
    return folder


@pytest.mark.parametrize("page", with_python(PAGES[1:]), ids=name_of)
def test_python_runs(page: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    # The README's run measures everything as for a user: peak memory, two processes each time, is half of a small run.
    monkeypatch.setattr(measuring, "peak_memory", lambda *_: 1_000_000)
    monkeypatch.setattr(measuring, "ROUNDS", 3)
    run_page(page)


def test_readme_makes_the_run_that_pages_read(place: Path) -> None:
    assert (place / "runs/tiny/result.json").is_file()
    assert (place / "runs/tiny/model.onnx").is_file()


# Commands ---------------------------------------------------------------------------------------------------


def command_lines() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for _, code in blocks(page, "console", "bash"):
            for line in code.splitlines():
                command = line.removeprefix("$ ").removeprefix(".venv/bin/").split(" #")[0].strip()
                if command.startswith("lissom"):
                    yield name_of(page), command


@pytest.mark.parametrize(("page", "command"), list(command_lines()))
def test_command_parses(page: str, command: str) -> None:
    parse(shlex.split(command)[1:])


def parse(arguments: list[str]) -> None:
    """As the command line would, without running anything."""
    group: Any = typer.main.get_command(app)
    if arguments[0].startswith("--"):
        assert arguments[0] in (*options_of(group), "--help")
        return
    context = group.make_context("lissom", list(arguments))
    name, command, rest = group.resolve_command(context, list(arguments))
    if rest == ["--help"]:
        return
    made = command.make_context(name, list(rest), parent=context)
    if hasattr(command, "commands"):
        name, command, rest = command.resolve_command(made, rest)
        command.make_context(name, rest, parent=made)


def test_the_parser_refuses_what_does_not_exist() -> None:
    for wrong in (
        ["compres", "p.py"],
        ["compress", "p.py", "--outt", "runs/a"],
        ["measure", "runs/a", "--rounds", "x"],
    ):
        with pytest.raises(Exception) as found:  # noqa: PT011  typer vendors click: the class depends on its version
            parse(wrong)
        assert callable(getattr(found.value, "show", None))


def options_of(command: Any) -> list[str]:
    return [option for parameter in command.params for option in parameter.opts if option.startswith("--")]


def test_cli_page_names_every_command_and_option() -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    group: Any = typer.main.get_command(app)
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    for name, command in group.commands.items():
        assert name in sections, name
        # A group has a section of its own for each of its commands.
        parts = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", sections[name], re.MULTILINE | re.DOTALL))
        inner = getattr(command, "commands", None)
        assert inner is None or set(inner) == set(parts), name
        for each, section in ((inner[part], parts[part]) for part in inner) if inner else ((command, sections[name]),):
            missing = [option for option in options_of(each) if option != "--help" and f"`{option}`" not in section]
            assert not missing, f"{name} {each.name}: {missing}"
            described = set(re.findall(r"^\| `(--\w+)`", section, re.MULTILINE))
            assert described <= set(options_of(each)), f"{name} {each.name}"


def test_cli_page_has_the_exit_codes() -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (\d+) \|", text, re.MULTILINE) == ["0", "1", "2", "3", "130"]


# Links and navigation ---------------------------------------------------------------------------------------


def links(page: Path) -> Iterator[str]:
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    for match in LINK.finditer(prose):
        if not match["target"].startswith(("https://", "http://", "mailto:")):
            yield match["target"]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), f"{name_of(page)}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{name_of(page)}: {target}"
        if page.is_relative_to(DOCS):
            assert file.is_relative_to(DOCS), f"{name_of(page)}: {target} leaves the site"


def test_the_link_test_sees_links_and_anchors() -> None:
    assert "docs/index.md" in set(links(ROOT / "README.md"))
    assert "1-quantizers-are-written-straight-into-the-exported-graph" in anchors(DOCS / "decisions.md")


def test_navigation_lists_every_page_once() -> None:
    configuration = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def pages(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        for item in entry if isinstance(entry, list) else entry.values() if isinstance(entry, dict) else ():
            yield from pages(item)

    listed = list(pages(configuration["nav"]))
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_the_site_asks_for_nothing_outside() -> None:
    configuration = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert configuration["theme"]["font"] is False
    assert configuration["plugins"] == ["search"]
    assert not {"extra_css", "extra_javascript"} & set(configuration)
    for picture in DOCS.rglob("*.svg"):
        outside = re.findall(r"https?://[^\s\"')]+", picture.read_text(encoding="utf-8"))
        assert set(outside) <= {"http://www.w3.org/2000/svg"}, picture


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_column_has_a_name(page: Path) -> None:
    lines = FENCE.sub("", page.read_text(encoding="utf-8")).splitlines()
    heads = [above for above, line in itertools.pairwise(lines) if re.fullmatch(r"\|[-:| ]+\|", line)]
    assert not [head for head in heads if not all(cell.strip() for cell in head.strip().strip("|").split("|"))]


# Completeness -----------------------------------------------------------------------------------------------

DESCRIBED: list[tuple[str, type[pydantic.BaseModel]]] = [
    *(
        ("result-format.md", kind)
        for kind in (
            records.RunRecord,
            records.Side,
            records.Latency,
            records.MetricValue,
            records.Ratios,
            records.GoalItem,
            records.StepRecord,
            records.SkipRecord,
            records.LayerRecord,
            records.ChannelRecord,
            records.Parity,
            SynthesisRecord,
            SynthesisPoint,
            records.Environment,
            records.TargetTrial,
            records.SearchRecord,
            SearchTrial,
            Moved,
            LayerSensitivity,
            LayerEffect,
            Manifest,
            Source,
        )
    ),
    *(
        ("analyze.md", kind)
        for kind in (
            ChannelGroup,
            ChannelMember,
            Graph,
            records.Sensitivity,
            records.GroupSensitivity,
            records.CutEffect,
        )
    ),
    *(
        ("lifelong.md", kind)
        for kind in (
            Pack,
            Grow,
            LwF,
            EWC,
            ProgressAndCompress,
            lifelong_records.Axis,
            lifelong_records.Backbone,
            lifelong_records.Attempt,
            lifelong_records.TaskRecord,
            lifelong_records.Row,
            lifelong_records.TaskProof,
            lifelong_records.LifelongRecord,
        )
    ),
    ("plan.md", Outlook),
    ("plan.md", Foreseen),
    ("sources.md", SourceSettings),
    ("architecture-search.md", Supernet),
    ("distill.md", DataFree),
    ("distill.md", Synthesis),
    ("distill.md", Signs),
    ("targets.md", Integers),
    ("targets.md", Dynamic),
    ("quantize.md", Quantize),
    ("finetune.md", Finetune),
    ("sparsify.md", Sparsify),
    ("factorize.md", Factorize),
]


@pytest.mark.parametrize(("page", "kind"), DESCRIBED, ids=lambda value: getattr(value, "__name__", str(value)))
def test_every_field_is_described(page: str, kind: type[pydantic.BaseModel]) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    missing = [field for field in kind.model_fields if not re.search(rf"`([\w.]+\.)?{field}`", text)]
    assert not missing


def test_every_task_field_is_described() -> None:
    text = (DOCS / "project-files.md").read_text(encoding="utf-8")
    assert not [field for field in Task.__dataclass_fields__ if f"| `{field}` |" not in text]


@pytest.mark.parametrize(
    ("page", "transform"),
    [
        ("quantize.md", Quantize),
        ("fold.md", Fold),
        ("finetune.md", Finetune),
        ("sparsify.md", Sparsify),
        ("factorize.md", Factorize),
        ("architecture-search.md", Supernet),
    ],
)
def test_every_action_is_described(page: str, transform: type[Transform]) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    for kind, action in transform.actions.items():
        row = re.search(rf"^\| `{kind}` \| (.*) \|$", text, re.MULTILINE)
        assert row, kind
        own = set(action.model_fields) - {"kind", "layer"}
        assert not [field for field in own if f"`{field}`" not in row[1]], kind


def test_architecture_shows_the_layers_that_are_enforced() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = next(c for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    shown = next(code for _, code in blocks(DOCS / "architecture.md", "text"))
    assert shown.splitlines() == [line.replace("lissom.", "") for line in contract["layers"]]


# Requirements -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-docs.txt"])
def test_requirements_are_exact_and_name_no_source(name: str) -> None:
    lines = [line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    wrong = [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)]
    assert not wrong


def test_both_requirements_agree() -> None:
    pins = [
        dict(line.split("==") for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if "==" in line)
        for name in ("requirements.txt", "requirements-docs.txt")
    ]
    assert {name: version for name, version in pins[1].items() if pins[0].get(name, version) != version} == {}
