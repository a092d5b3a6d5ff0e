"""What is published: the wheel holds what it needs and nothing else, and works where it is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,), (source,) = place.glob("*.whl"), place.glob("*.tar.gz")
    return wheel, source


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment with the wheel, and the packages of this one without its Lissom."""
    place = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(place, with_pip=False, symlinks=True)
    python = place / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "-q"]
    subprocess.run([*pip, str(built[0])], check=True, capture_output=True)
    # The folder is appended to sys.path, its own .pth files (the editable Lissom) are not read.
    Path(site, "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "bin"


def test_the_wheel_holds_what_it_needs(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        names = set(wheel.namelist())
    inside = {name.removeprefix("lissom/") for name in names if name.startswith("lissom/")}
    assert {"py.typed", "_digits.py", "cli.py", "files.py"} <= inside
    source = ROOT / "src" / "lissom"
    held = {str(p.relative_to(source)) for p in source.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert held <= inside, held - inside
    assert {f"targets/{name}.toml" for name in ("onnxruntime", "openvino", "executorch", "tensorrt", "torch")} <= inside
    assert {name.split("/")[0].split("-")[0] for name in names} == {"lissom"}
    assert not [name for name in names if "test" in Path(name).name or name.endswith(".pyc")]
    assert (ROOT / "examples" / "digits.py").is_file()


def test_the_source_archive_holds_the_tests_and_no_leftovers(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "src/lissom/cli.py", "examples/digits.py", "tests/test_wheel.py"} <= names
    assert not [name for name in names if name.startswith((".venv", "runs", "dist", "shared")) or ".pyc" in name]


def test_the_installed_wheel_works(installed: Path, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}

    def run(*arguments: str) -> str:
        return subprocess.run(
            [str(installed / arguments[0]), *arguments[1:]],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    where = run("python", "-c", "import lissom; print(lissom.__file__)").strip()
    assert where.startswith(str(installed.parent))
    assert run("lissom", "--version").startswith("lissom ")
    assert json.loads(run("lissom", "targets", "--json"))["onnxruntime"]["found"]
    project = str(Path(where).with_name("_digits.py"))
    command = ("lissom", "compress", project, "--set", "epochs=2", "-t", "onnxruntime", "--drop", "5%", "--out", "run")
    record = json.loads(run(*command, "--json"))
    assert record["goal"][0]["met"]
    assert (tmp_path / "run/report.html").is_file()
