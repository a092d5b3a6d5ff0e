"""What a user of each tool writes for the comparisons BESIDE and BESIDECUT, as the tool's own documentation does it.

Every function is one snippet: it is carried out as it stands, and the lines of its body are what the table counts
(`lines_of`), formatted by the project's own formatter. What all have alike is given: the model, an example `x`, batches
of data, a folder. A snippet hands back the file that it made, or the changed model.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lissom.data import Batches


def lines_of(*snippets: Callable[..., Any]) -> int:
    """Lines of the bodies that are not blank; signatures and docstrings are not counted."""
    return sum(map(_lines, snippets))


def _lines(snippet: Callable[..., Any]) -> int:
    text = textwrap.dedent(inspect.getsource(snippet))
    function = ast.parse(text).body[0]
    assert isinstance(function, ast.FunctionDef)
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return sum(bool(line.strip()) for line in text.splitlines()[body[0].lineno - 1 :])


# Static int8 ------------------------------------------------------------------------------------------------


def nncf_static(model: nn.Module, x: Tensor, calibration: Batches, folder: Path) -> Path:
    """NNCF's README for OpenVINO."""
    import nncf
    import openvino

    exported = openvino.convert_model(model, example_input=x, input=[-1, *x.shape[1:]])
    dataset = nncf.Dataset(calibration, lambda batch: batch[0].numpy())
    quantized = nncf.quantize(exported, dataset)
    path = folder / "nncf.xml"
    openvino.save_model(quantized, path)
    return path


def ort_static(model: nn.Module, x: Tensor, calibration: Batches, folder: Path) -> Path:
    """ONNX Runtime's page on quantization, its advice for x86 with VNNI."""
    import torch
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = iter(calibration)

        def get_next(self):
            batch = next(self.batches, None)
            return None if batch is None else {"x": batch[0].numpy()}

    batch = {0: torch.export.Dim("batch")}
    torch.onnx.export(model, (x,), folder / "float.onnx", input_names=["x"], dynamic_shapes=(batch,), dynamo=True)
    quant_pre_process(folder / "float.onnx", folder / "prepared.onnx")
    path = folder / "ort-static.onnx"
    quantize_static(
        folder / "prepared.onnx",
        path,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return path


def lissom_static(model: nn.Module, x: Tensor, calibration: Batches, folder: Path, target: str) -> Path:
    import lissom

    task = lissom.Task(example_inputs=(x,), calibration=calibration)
    recipe = lissom.Recipe([lissom.Fold(), lissom.Quantize()])
    lissom.compress(model, task, target=target, recipe=recipe, out=folder)
    return folder


# Channels ---------------------------------------------------------------------------------------------------


def torch_pruning(model: nn.Module, x: Tensor) -> nn.Module:
    """As its own benchmark on CIFAR-10: one ranking, small steps until the multiplications are few enough."""
    import torch_pruning as tp

    pruner = tp.pruner.MagnitudePruner(
        model,
        x,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=400,
        ignored_layers=[model.linear],
    )
    before, _ = tp.utils.count_ops_and_params(model, x)
    after = before
    while before / after < 2.1:
        pruner.step()
        after, _ = tp.utils.count_ops_and_params(model, x)
    return model


def torch_pruning_inside(model: nn.Module, x: Tensor) -> nn.Module:
    """The same, kept away from the channels that shortcuts add."""
    import torch_pruning as tp

    inside = [module for name, module in model.named_modules() if name.startswith("layer") and name.endswith("conv1")]
    others = [module for module in model.modules() if isinstance(module, nn.Conv2d) and module not in inside]
    pruner = tp.pruner.MagnitudePruner(
        model,
        x,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=400,
        ignored_layers=[model.linear, *others],
    )
    before, _ = tp.utils.count_ops_and_params(model, x)
    after = before
    while before / after < 2.1:
        pruner.step()
        after, _ = tp.utils.count_ops_and_params(model, x)
    return model


def loop(model: nn.Module, train: Batches, epochs: int) -> nn.Module:
    """What is to be written beside Torch-Pruning, which trains nothing."""
    import torch
    import torch.nn.functional as F

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=epochs * len(train), pct_start=0.05)
    model.train()
    for epoch in range(epochs):
        for images, labels in train.at_epoch(epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def lissom_pruning(model: nn.Module, x: Tensor, calibration: Batches, folder: Path) -> Path:
    import lissom

    task = lissom.Task(example_inputs=(x,), calibration=calibration)
    recipe = lissom.Recipe([lissom.Prune(macs_ratio=2.1, criterion="magnitude", round_to=1)])
    lissom.compress(model, task, target="onnxruntime", recipe=recipe, out=folder)
    return folder


def lissom_pruning_and_training(
    model: nn.Module, x: Tensor, calibration: Batches, train: Batches, epochs: int, folder: Path
) -> Path:
    import torch.nn.functional as F

    import lissom

    task = lissom.Task(example_inputs=(x,), calibration=calibration, train=train, loss=F.cross_entropy)
    prune = lissom.Prune(macs_ratio=2.1, criterion="magnitude", round_to=1)
    recipe = lissom.Recipe([prune, lissom.Finetune(epochs=epochs, learning_rate=0.01)])
    lissom.compress(model, task, target="onnxruntime", recipe=recipe, out=folder)
    return folder


# Distillation -----------------------------------------------------------------------------------------------


def kd_loss(model: nn.Module, teacher: nn.Module, train: Batches, epochs: int) -> nn.Module:
    """torchdistill's `KDLoss(temperature=4, alpha=0.1)` as its documentation has it, in a loop."""
    import torch
    import torch.nn.functional as F

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=epochs * len(train), pct_start=0.05)
    soft = nn.KLDivLoss(reduction="batchmean")
    model.train()
    teacher.eval()
    for epoch in range(epochs):
        for images, labels in train.at_epoch(epoch):
            with torch.no_grad():
                wanted = torch.softmax(teacher(images) / 4, dim=1)
            answers = model(images)
            told = soft(torch.log_softmax(answers / 4, dim=1), wanted)
            loss = 0.1 * F.cross_entropy(answers, labels) + 0.9 * 4**2 * told
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def lissom_taught(model: nn.Module, teacher: nn.Module, x: Tensor, train: Batches, epochs: int, folder: Path) -> Path:
    import torch.nn.functional as F

    import lissom

    task = lissom.Task(example_inputs=(x,), train=train, loss=F.cross_entropy, teacher=teacher)
    taught = lissom.Finetune(epochs=epochs, learning_rate=0.01, teacher="task", temperature=4.0)
    lissom.compress(model, task, target="onnxruntime", recipe=lissom.Recipe([taught]), out=folder)
    return folder


# Factors ----------------------------------------------------------------------------------------------------


def tensorly_tucker(model: nn.Module, names: list[str], rank: int) -> nn.Module:
    """`partial_tucker` of every kernel, rebuilt by hand into three convolutions."""
    import tensorly
    from tensorly.decomposition import partial_tucker

    tensorly.set_backend("pytorch")
    for name in names:
        old = model.get_submodule(name)
        (core, (out, into)), _ = partial_tucker(old.weight.data, rank=[rank, rank], modes=[0, 1])
        first = nn.Conv2d(old.in_channels, rank, 1, bias=False)
        middle = nn.Conv2d(rank, rank, old.kernel_size, old.stride, old.padding, bias=False)
        last = nn.Conv2d(rank, old.out_channels, 1, bias=old.bias is not None)
        first.weight.data = into.T[:, :, None, None].contiguous()
        middle.weight.data = core.contiguous()
        last.weight.data = out[:, :, None, None].contiguous()
        if old.bias is not None:
            last.bias.data = old.bias.data
        model.set_submodule(name, nn.Sequential(first, middle, last))
    return model


def lissom_tucker(model: nn.Module, x: Tensor, calibration: Batches, names: list[str], rank: int, folder: Path) -> Path:
    import lissom

    task = lissom.Task(example_inputs=(x,), calibration=calibration)
    others = tuple(n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and n not in names)
    factorize = lissom.Factorize(method="tucker", rank=rank, exclude=others, break_even="macs")
    lissom.compress(model, task, target="onnxruntime", recipe=lissom.Recipe([factorize]), out=folder)
    return folder
