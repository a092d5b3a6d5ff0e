"""Targets and their tables."""

from __future__ import annotations

from importlib import resources

import pytest

from lissom.errors import TargetError
from lissom.target import Target, known_targets, load_target


def test_known_targets_are_the_files():
    names = {f.name for f in resources.files("lissom.targets").iterdir() if f.name.endswith(".toml")}
    assert {f"{name}.toml" for name in known_targets()} == names
    assert list(known_targets()) == sorted(known_targets())
    assert {"onnxruntime", "openvino", "executorch", "tensorrt", "torch"} <= set(known_targets())


@pytest.mark.parametrize("name", known_targets())
def test_every_table_is_consistent(name):
    target = load_target(name)
    table = target.integers
    assert target.name == name
    assert Target.model_validate_json(target.model_dump_json()) == target
    assert set(table.needs_output) <= set(table.ops)
    assert set(target.dynamic.ops) <= set(table.ops)
    # Rounding at the source and rounding on both sides of a move are two answers to the same question.
    assert not (table.at_source and table.moves)
    assert (target.dynamic.granularity == "group") == (target.dynamic.group > 0)
    # Kernels that give integers must be able to absorb the activation that decides the range.
    assert not table.needs_output or "relu" in table.fused


@pytest.mark.parametrize("name", known_targets())
def test_every_table_says_why_its_multiple(name):
    lines = (resources.files("lissom.targets") / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.startswith("channel_multiple"))
    assert lines[at] == f"channel_multiple = {load_target(name).channel_multiple}"
    assert lines[at - 1].startswith("# ")


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("openvno", "Did you mean 'openvino'?"),
        ("onnxruntim", "Did you mean 'onnxruntime'?"),
        ("../pyproject", "Known: auto, executorch, onnxruntime, openvino, tensorrt, torch."),
    ],
)
def test_unknown_targets_give_the_nearest(name, way_out):
    with pytest.raises(TargetError) as wrong:
        load_target(name)
    assert str(wrong.value) == f"Unknown target {name!r}. {way_out}"


def test_a_wrong_table_names_the_field():
    data = load_target("torch").model_dump()
    data["integers"]["symetric"] = True
    with pytest.raises(TargetError) as wrong:
        Target.parse(data, "target torch", TargetError)
    assert str(wrong.value) == "target torch: unknown field 'integers.symetric'. Did you mean 'symmetric'?"
