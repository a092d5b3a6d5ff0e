"""The `.pt2` file: no pickle written, none read."""

from __future__ import annotations

import contextlib
import json
import pickle
import zipfile
from typing import Any

import pytest
import torch
from torch import nn

from lissom.errors import RunFolderError
from lissom.export.torch import Torch
from lissom.task import Batch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Boom:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.fixture
def made(tmp_path):
    model = nn.Linear(3, 2)
    return Torch().export(model, Batch((torch.randn(2, 3),)), "torch", tmp_path, "m"), tmp_path


def rewrite(path, change) -> None:
    """Pass every entry through `change(name, bytes) -> bytes`."""
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(name, change(name, data))


def test_nothing_in_the_file_is_pickled(made):
    artifact, folder = made
    with zipfile.ZipFile(folder / artifact.files[0]) as archive:
        for info in archive.infolist():
            data = archive.read(info)
            assert not data.startswith((b"PK", b"\x80")), info.filename
            if info.filename.endswith(".json"):
                assert '"use_pickle": true' not in data.decode().lower()
        assert archive.getinfo("archive/data/sample_inputs/model.pt").file_size == 0


def test_planted_example_inputs_are_not_unpickled(made):
    artifact, folder = made
    rewrite(folder / artifact.files[0], lambda n, d: pickle.dumps(Boom()) if "sample_inputs" in n else d)
    with pytest.raises(RunFolderError, match=r"sample_inputs/model.pt'.* would be unpickled"):
        Torch().load(artifact, folder, 1)


def test_a_weight_marked_as_pickled_is_refused(made):
    artifact, folder = made

    def mark(name: str, data: bytes) -> bytes:
        if not name.endswith("weights_config.json"):
            return data
        config = json.loads(data)
        next(iter(config["config"].values()))["use_pickle"] = True
        return json.dumps(config).encode()

    rewrite(folder / artifact.files[0], mark)
    with pytest.raises(RunFolderError, match="an unpickled tensor"):
        Torch().kernels(artifact, folder)


def test_an_expression_that_is_code_is_refused(made):
    artifact, folder = made

    def plant(name: str, data: bytes) -> bytes:
        text = data.decode(errors="ignore")
        return text.replace("Symbol('", "exec('").encode() if name.endswith("model.json") else data

    rewrite(folder / artifact.files[0], plant)
    with pytest.raises(RunFolderError, match="the expression"):
        Torch().load(artifact, folder, 1)


CODE = "__import__('pytest').fail('run')"


def _node(data: Any) -> dict[str, Any]:
    return data["graph_module"]["graph"]["nodes"][-1]


def _signature(data: Any) -> dict[str, Any]:
    return data["graph_module"]["module_call_graph"][0]["signature"]


def _size(data: Any, expression: str) -> None:
    sizes = next(iter(data["graph_module"]["graph"]["tensor_values"].values()))["sizes"]
    sizes[0] = {"as_expr": {"expr_str": expression, "hint": None}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: _signature(d).update(forward_arg_names=[f"input={CODE}"]), "the name"),
        (lambda d: _signature(d).update(forward_arg_names=["input):\n  import os\ndef g(x"]), "the name"),
        (lambda d: _signature(d).update(in_spec=json.dumps([1, {"type": "builtins.dict", "context": json.dumps([CODE]),
                                                                "children_spec": []}])), "the name"),
        (lambda d: _signature(d).update(out_spec=json.dumps([1, {"type": "collections.defaultdict", "context": None,
                                                                 "children_spec": []}])), "the structure"),
        (lambda d: _node(d).update(target="torch.os.system"), "the operator"),
        (lambda d: _node(d).update(target="torch.hub.load"), "the operator"),
        (lambda d: _node(d).update(target="torch.ops.load_library"), "the operator"),
        (lambda d: _node(d).update(target="torch.ops.aten.from_file.default"), "the operator"),
        (lambda d: _node(d).update(target="torch.ops.aten.add.__class__"), "the operator"),
        (lambda d: _node(d).update(name=CODE), "the name"),
        (lambda d: _node(d)["inputs"].append({"name": "", "arg": {"as_string": "/etc/passwd"}, "kind": 1}), "the name"),
        (lambda d: d["graph_module"]["graph"]["tensor_values"].update({CODE: {}}), "the name"),
        (lambda d: _size(d, "9**9**9**9"), "the expression"),
        (lambda d: _size(d, "Pow(Integer(9), Pow(Integer(9), Integer(99)))"), "the expression"),
        (lambda d: _size(d, "Lambda(x, x)"), "the expression"),
    ],
)  # fmt: skip
def test_code_in_the_graph_is_refused_before_torch_reads_it(made, change, said):
    artifact, folder = made

    def plant(name: str, data: bytes) -> bytes:
        if not name.endswith("model.json"):
            return data
        held = json.loads(data)
        change(held)
        return json.dumps(held).encode()

    rewrite(folder / artifact.files[0], plant)
    with pytest.raises(RunFolderError, match=said):
        Torch().load(artifact, folder, 1)


def test_sizes_that_are_computed_are_read(tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            n, c, h, w = x.shape
            return x.reshape(n // 2, 2 * c, h * w)[:, :, : h * w - 1].mean((1, 2)) + n

    artifact = Torch().export(Odd(), Batch((torch.randn(4, 3, 5, 5),)), "torch", tmp_path, "m")
    given = torch.randn(4, 3, 5, 5)
    (found,) = Torch().load(artifact, tmp_path, 1)([given.numpy()])
    assert torch.allclose(torch.from_numpy(found), Odd()(given))


@pytest.mark.parametrize("damage", [b"", b"PK", None])
def test_a_damaged_archive_is_an_error_of_ours(made, damage):
    artifact, folder = made
    path = folder / artifact.files[0]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage is None else damage)
    with pytest.raises(RunFolderError, match=r"no archive that can be read"):
        Torch().load(artifact, folder, 1)


def test_any_flipped_byte_is_an_error_of_ours_or_another_weight(made):
    artifact, folder = made
    path = folder / artifact.files[0]
    content = path.read_bytes()
    for at in range(0, len(content), max(1, len(content) // 40)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x15]) + content[at + 1 :])
        with contextlib.suppress(RunFolderError):
            Torch().load(artifact, folder, 1)


def test_threads_are_put_back(made):
    artifact, folder = made
    runner = Torch().load(artifact, folder, 1)
    before = torch.get_num_threads()
    runner([torch.randn(2, 3).numpy()])
    assert torch.get_num_threads() == before
