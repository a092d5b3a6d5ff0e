"""The `.pt2` file: no pickle written, none read."""

from __future__ import annotations

import json
import pickle
import zipfile

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


def test_threads_are_put_back(made):
    artifact, folder = made
    runner = Torch().load(artifact, folder, 1)
    before = torch.get_num_threads()
    runner([torch.randn(2, 3).numpy()])
    assert torch.get_num_threads() == before
