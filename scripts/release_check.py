"""Build wheel and source archive, install both in clean environments, and compress something there.

    .venv/bin/python scripts/release_check.py [--python PATH ...] [--keep FOLDER]

For every Python that Lissom supports and that is found here (on the path, in pyenv's folder, or named by `--python`):

1. an empty environment gets the wheel with the core's requirements alone, from wherever pip is configured to look;
2. `pip check`, `lissom --version`, `lissom targets` run in it, from a folder that holds no Lissom;
3. `examples/digits.py`, as the source archive holds it, is refused with the extra that its data are in;
4. with scikit-learn, which is what that file itself imports, `lissom compress` compresses it for ONNX Runtime;
5. the source archive replaces the wheel, which builds a wheel from it, and 2 is done again.

What was not found is named, and so is what failed; the exit code is 1 only for what failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
SUPPORTED = ("3.11", "3.12", "3.13")
PROJECT_NEEDS = "scikit-learn"


class FailedError(Exception):
    """A command did something else than it should; the message shows the end of what it said."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Install what would be published in clean environments.")
    parser.add_argument("--python", type=Path, action="append", default=[], metavar="PATH", help="one more interpreter")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work there and leave everything")
    asked = parser.parse_args()
    place = (asked.keep or Path(tempfile.mkdtemp(prefix="release-check-"))).resolve()
    place.mkdir(parents=True, exist_ok=True)
    failed = False
    try:
        wheel, source = build(place / "dist")
        with tarfile.open(source) as archive:
            archive.extractall(place, filter="data")
        project = place / source.name.removesuffix(".tar.gz") / "examples" / "digits.py"
        found = interpreters(asked.python)
        for version in SUPPORTED:
            if version not in found:
                print(f"Python {version}: not found here", flush=True)
                continue
            began = time.monotonic()
            try:
                said = check(found[version], wheel, source, project, place / version)
            except FailedError as wrong:
                failed, said = True, f"FAILED. {wrong}"
            print(f"Python {version} ({time.monotonic() - began:.0f} s): {said}", flush=True)
    finally:
        if asked.keep is None:
            shutil.rmtree(place, ignore_errors=True)
    return int(failed)


def build(place: Path) -> tuple[Path, Path]:
    """The wheel, made from the source archive as publishing does, and the archive."""
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place), str(ROOT)], cwd=ROOT)
    (wheel,), (source,) = place.glob("*.whl"), place.glob("*.tar.gz")
    return wheel, source


def interpreters(named: Iterable[Path]) -> dict[str, Path]:
    """By version; those that were named come first. One that cannot make environments is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [*named, *sorted(pyenv.glob("*/bin/python3"))]
    candidates += [Path(path) for v in SUPPORTED if (path := shutil.which(f"python{v}"))]
    found: dict[str, Path] = {}
    for path in candidates:
        asked = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
        answer = subprocess.run([str(path), "-c", asked], capture_output=True, text=True)
        if answer.returncode == 0:
            found.setdefault(answer.stdout.strip(), path)
    return found


def check(python: Path, wheel: Path, source: Path, project: Path, place: Path) -> str:
    """One interpreter, all steps; what to say of it."""
    run([str(python), "-m", "venv", "--clear", str(place / "venv")], cwd=place.parent)
    own = place / "venv" / "bin"
    work = place / "work"
    work.mkdir(exist_ok=True)
    pip = [str(own / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run([*pip, "install", str(wheel)], cwd=work)
    version = answers(pip, own, work)
    compress = [str(own / "lissom"), "compress", str(project), "--set", "epochs=2", "-t", "onnxruntime"]
    compress += ["--drop", "5%", "--out", "run", "--json"]
    if "lissom[data]" not in run(compress, cwd=work, fails=True):
        raise FailedError("without scikit-learn, digits.py should name the extra lissom[data]")
    run([*pip, "install", PROJECT_NEEDS], cwd=work)
    record = json.loads(run(compress, cwd=work))
    if not record["goal"][0]["met"] or not (work / "run" / "report.html").is_file():
        raise FailedError(f"the run did not meet its goal: {record['goal']}")
    run([*pip, "uninstall", "--yes", "lissom"], cwd=work)
    run([*pip, "install", "--no-deps", str(source)], cwd=work)
    answers(pip, own, work)
    versions = record["environment"]["versions"]
    held = ", ".join(f"{name} {versions[name]}" for name in ("torch", "onnxruntime", "numpy") if name in versions)
    return f"{version} installed from wheel and source archive, digits {record['ratios']['size']:.1f}x smaller; {held}"


def answers(pip: list[str], own: Path, work: Path) -> str:
    run([*pip, "check"], cwd=work)
    targets = json.loads(run([str(own / "lissom"), "targets", "--json"], cwd=work))
    if not targets["onnxruntime"]["found"] or targets["openvino"]["found"]:
        raise FailedError("with the core alone there should be ONNX Runtime and no OpenVINO")
    return run([str(own / "lissom"), "--version"], cwd=work).strip()


def run(command: list[str], *, cwd: Path, fails: bool = False) -> str:
    """Standard output; with `fails`, both streams of a command that has to fail.

    Raises:
        FailedError: it did not do as it should.
    """
    environment = {k: v for k, v in os.environ.items() if k in KEPT or k.startswith(("PIP_", "SSL_"))}
    made = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    if (made.returncode != 0) != fails:
        end = " ".join((made.stdout + made.stderr).split())[-600:]
        raise FailedError(f"{' '.join(command[:6])} ... ended with {made.returncode}: {end}")
    return made.stdout + made.stderr if fails else made.stdout


KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "OMP_NUM_THREADS", "https_proxy", "HTTPS_PROXY", "REQUESTS_CA_BUNDLE")
"""Nothing of the environment that the script itself runs in, such as PYTHONPATH, reaches what is checked."""


if __name__ == "__main__":
    sys.exit(main())
