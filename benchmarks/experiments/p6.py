"""P6: the smallest configuration of every timm family, pruned by half channel by channel.

Each network is built with random weights, its scales, shifts and statistics moved away from 0 and 1, traced, and pruned
by `lissom.Prune(ratio=0.5, recovery="none", round_to=1)`: study, plan, surgery. A network counts as pruned if

- the smaller network gives the masked original's outputs, to `ALLOWED_GAP` of the largest one;
- every parameter that is left and had a gradient before has a finite one after;
- its ONNX file runs in ONNX Runtime and gives torch's outputs, to `AGREES` of their range.

A `LissomError` is a refusal with its reason, anything else an unexpected error. A network runs in a process of its own,
and a stage of it (trace, prune, export) for at most `LIMIT` seconds. Finished networks are kept as JSON lines: a run
that was killed continues.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import multiprocessing
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

import lissom
from benchmarks.context import Context
from benchmarks.prune_models import build, nets
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from benchmarks.zoo_models import Net
from lissom.errors import LissomError
from lissom.export.base import run as run_artifact
from lissom.export.catalogue import runtime_of
from lissom.graph.channels import find_channels
from lissom.graph.trace import trace
from lissom.target import load_target
from lissom.task import Batch, Task, repeated
from lissom.transforms.pruning.prune import kept_by
from lissom.transforms.pruning.surgery import ALLOWED_GAP, Pruned, prune

TITLE = "Prune every timm family by half, no code for any of them"
NEEDS = ()
SHARE = 0.95
LIMIT = 300.0
"""Seconds a stage of one network may take, on a core that others may use as well."""
AGREES = 1e-3
TARGET = "onnxruntime"
ONE = lissom.Prune(ratio=0.5, recovery="none", round_to=1)
Figures = dict[str, float | str]

GOAL = Goal(
    text=(
        f"at least {SHARE:.0%} of timm's families pruned by half, equal to the masked original, gradients flow, the "
        "ONNX file agrees; every other one is refused with a reason; the transformers classes and the detector too"
    ),
    wishes=(
        Wish(figure="share of families pruned", at_least=SHARE),
        Wish(figure="other networks not pruned", at_most=0),
        Wish(figure="unexpected errors", at_most=0),
    ),
)


def run(context: Context) -> Outcome:
    todo = nets(context.kept)
    notes = _Notes(context.kept / f"networks-{_state()}.jsonl")
    left = [net for net in todo if _name(net) not in notes.runs]
    spawn = multiprocessing.get_context("forkserver")
    spawn.set_forkserver_preload(["benchmarks.warm", __name__])

    def one(net: Net) -> Run:
        return watched(spawn, net, LIMIT)

    with concurrent.futures.ThreadPoolExecutor(context.threads) as pool:
        waiting = [pool.submit(one, net) for net in left]
        try:
            for done in concurrent.futures.as_completed(waiting):
                found = done.result()
                notes.add(found)
                context.say(f"{len(notes.runs)}/{len(todo)} {found.name}: {_line(found)}")
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    found = judged([notes.runs[_name(net)] for net in todo])
    notes.forget()
    return found


def judged(found: list[Run]) -> Outcome:
    families = [one for one in found if one.name.startswith("timm/")]
    others = [one for one in found if not one.name.startswith("timm/")]
    fine = [one for one in families if one.figures["status"] == "ok"]
    pruned = [one for one in found if "gap" in one.figures]
    own = [one for one in families if one.figures.get("class") == "its own"]
    value = {
        "families": Figure(value=len(families)),
        "share of families pruned": Figure(value=len(fine) / max(1, len(families)), unit="share"),
        "families in their own class": Figure(
            value=len(own) / max(1, len(families)), unit="share", note="the others come back as exported graphs"
        ),
        "other networks not pruned": Figure(value=sum(one.figures["status"] != "ok" for one in others)),
        "refused with a reason": Figure(value=_count(found, "refused"), unit="networks"),
        "out of time": Figure(value=_count(found, "out of time"), unit="networks"),
        "unexpected errors": Figure(value=_count(found, "error"), unit="networks"),
        "largest gap": Figure(value=max((float(o.figures["gap"]) for o in pruned), default=0.0), unit="of the output"),
    }
    return Outcome(
        goal=GOAL,
        value=value,
        reference=(
            Beside(
                what="families with a working forward by autograd-graph tracing, generic set-up (109 tried)",
                value=52,
                unit="networks",
                source="Torch-Pruning 1.6.1, an earlier run on this machine",
            ),
        ),
        control=(),
        seeds=(0,),
        runs=tuple(found),
    )


def _count(found: Iterable[Run], status: str) -> int:
    return sum(one.figures["status"] == status for one in found)


def watched(spawn: Any, net: Net, limit: float, work: Callable[[Net, Connection], None] | None = None) -> Run:
    """The network in a process of its own, which is ended when one stage takes longer than `limit` seconds."""
    here, there = spawn.Pipe(duplex=False)
    process = spawn.Process(target=work or attempt, args=(net, there), daemon=True)
    process.start()
    there.close()
    figures: Figures = {"status": "error", "reason": ""}
    stage, started = "start", time.monotonic()
    try:
        while here.poll(limit):
            stage, found = here.recv()
            figures.update(found)
            if stage == "end":
                break
        else:
            figures.update({"status": "out of time", "reason": f"{stage}: more than {limit:.0f} s"})
    except EOFError:
        process.join()
        figures.update({"status": "error", "reason": f"{stage}: the process ended with {process.exitcode}"})
    process.kill()
    process.join()
    figures["seconds"] = round(time.monotonic() - started, 1)
    return Run(name=_name(net), figures=figures)


def attempt(net: Net, parent: Connection) -> None:
    """Whatever goes wrong is the result. Sends (stage that begins now, figures so far)."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    def say(stage: str, figures: Figures | None = None) -> None:
        parent.send((stage, figures or {}))

    figures: Figures
    try:
        figures = _chain(net, say)
    except LissomError as refused:
        figures = {"status": "refused", "reason": _short(refused)}
    except Exception as wrong:  # noqa: BLE001  an unexpected error is what the zoo looks for
        figures = {"status": "error", "reason": f"{type(wrong).__name__}: {_short(wrong)}"}
    say("end", figures)


def _chain(net: Net, say: Callable[[str, Figures | None], None]) -> Figures:
    say("build", None)
    model, example = build(net)
    task = Task(example_inputs=example.args, example_kwargs=example.kwargs, name=net.name)
    say("trace", None)
    clock = time.perf_counter()
    traced = trace(model, task.example)
    figures: Figures = {"trace s": _since(clock)}
    say("prune", figures)
    clock = time.perf_counter()
    channels = find_channels(traced)
    figures["channels s"] = _since(clock)
    clock = time.perf_counter()
    study = ONE.study(model, traced, task, load_target(TARGET))
    plan = ONE.plan(traced.graph, study, load_target(TARGET))
    figures["plan s"] = _since(clock)
    figures["groups"] = len(channels.groups)
    figures["groups that can be cut"] = sum(g.reason is None and g.size > 1 for g in channels.groups)
    if channels.unknown:
        figures["unknown operators"] = ", ".join(sorted(channels.unknown))
    clock = time.perf_counter()
    after = prune(model, traced, kept_by(plan, channels), task.example, channels)
    figures["surgery s"] = _since(clock)
    figures |= {
        "gap": float(f"{after.gap:.1e}"),
        "class": "its own" if after.own else "exported graph",
        "why not its own": _short(after.reason),
        "MMACs": round(traced.graph.macs / 1e6, 2),
        "MMACs after": round(plan.predicted.macs / 1e6, 2),
        "parameters": count(model),
        "parameters after": count(after.module),
    }
    say("gradients", figures)
    lost = lost_gradients(model, after, task.example)
    figures["gradients"] = "flow" if not lost else f"lost by {lost[0]} and {len(lost) - 1} more"
    say("export", figures)
    clock = time.perf_counter()
    gap, size = exported_gap(after.module, task.example)
    figures |= {"onnx s": _since(clock), "onnx gap": float(f"{gap:.1e}"), "onnx bytes": size}
    wrong = [
        text
        for text, holds in (
            (f"ONNX Runtime differs from torch by {gap:.1e}", not gap <= AGREES),
            (f"gradients are {figures['gradients']}", bool(lost)),
            (f"the gap is above {ALLOWED_GAP}", not after.gap <= ALLOWED_GAP),
        )
        if holds
    ]
    return {**figures, "status": "differs" if wrong else "ok", "reason": "; ".join(wrong)}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def lost_gradients(model: nn.Module, after: Pruned, example: Batch) -> list[str]:
    """Parameters that had a gradient in the original and are left, but have none or an infinite one."""
    before, found = gradients(model, example), gradients(after.module, example)
    return [name for name, had in before.items() if had and name in found and not found[name]]


def gradients(model: nn.Module, example: Batch) -> dict[str, bool]:
    """Parameter to whether it has a finite gradient of the sum of what the model makes, weighed at random."""
    named = dict(model.named_parameters(remove_duplicate=False))
    parameters = list({id(p): p for p in named.values() if p.requires_grad}.values())
    leaves = [x for x in pytree.tree_leaves(model(*example.args, **example.kwargs)) if isinstance(x, torch.Tensor)]
    generator = torch.Generator().manual_seed(0)
    total = sum((torch.rand(x.shape, generator=generator) * x).sum() for x in leaves if x.requires_grad)
    made = torch.autograd.grad(torch.as_tensor(total), parameters, allow_unused=True)
    finite = {id(p): g is not None and bool(torch.isfinite(g).all()) for p, g in zip(parameters, made, strict=True)}
    return {name: finite[id(p)] for name, p in named.items() if id(p) in finite}


def exported_gap(model: nn.Module, example: Batch) -> tuple[float, int]:
    """Largest difference of ONNX Runtime and torch, as a share of the output's range; bytes of the file."""
    runtime = runtime_of(load_target(TARGET))
    with tempfile.TemporaryDirectory(prefix="p6-") as folder:
        artifact = runtime.export(model, example, TARGET, Path(folder), "pruned")
        batch = example if artifact.fixed else repeated(example, 2)
        got = run_artifact(runtime.load(artifact, Path(folder), 1), artifact, batch)
    with torch.no_grad():
        made = pytree.tree_leaves(model(*batch.args, **batch.kwargs))
    wanted = [leaf for leaf in made if isinstance(leaf, torch.Tensor)]
    return max(relative_gap(a, b) for a, b in zip(wanted, got, strict=True)), artifact.size_bytes


def relative_gap(wanted: torch.Tensor, got: torch.Tensor) -> float:
    """Largest difference as a share of the range of `wanted`; infinite where one is not a number."""
    if wanted.shape != got.shape or not torch.isfinite(got.double()).all():
        return float("inf")
    span = float(wanted.max() - wanted.min())
    return float((wanted.double() - got.double()).abs().max()) / max(span, 1e-30)


class _Notes:
    """Finished networks, one JSON line each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.runs: dict[str, Run] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    found = Run.model_validate_json(line)
                except ValueError:
                    continue  # the line that was being written when the run was killed
                self.runs[found.name] = found

    def add(self, run: Run) -> None:
        with self._lock:
            self.runs[run.name] = run
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(run.model_dump(mode="json")) + "\n")

    def forget(self) -> None:
        """All is in the result: the next run measures again."""
        self._path.unlink(missing_ok=True)


def _state() -> str:
    """Changes with every module that decides what comes out: kept networks of older code are not reused."""
    root = Path(lissom.__file__).parent
    files = sorted([*root.glob("graph/*.py"), *root.glob("transforms/pruning/*.py"), Path(__file__)])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _name(net: Net) -> str:
    return f"{net.source}/{net.name}"


def _line(found: Run) -> str:
    figures = found.figures
    return f"{figures['status']} {figures.get('reason', '')} {figures.get('class', '')} {figures['seconds']} s"


def _since(clock: float) -> float:
    return round(time.perf_counter() - clock, 3)


def _short(wrong: object) -> str:
    return " ".join(str(wrong).split())[:240]
