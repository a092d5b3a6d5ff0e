"""The optimizer, which parameters decay, its state by name, and the averaged weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lissom.training.settings import Training

NORMS = (
    nn.modules.batchnorm._NormBase,  # pyright: ignore[reportPrivateUsage]  batch and instance normalization
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that require gradients, each once, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def decays(model: nn.Module, name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: not to biases, vectors and scalars, and not inside a normalization.

    An exported graph has lost the classes of its modules; vectors are then what is known.
    """
    owner = model.get_submodule(name.rpartition(".")[0])
    return parameter.ndim > 1 and not isinstance(owner, NORMS) and not name.endswith("bias")


def optimizer_of(model: nn.Module, settings: Training, *along: nn.Module) -> torch.optim.Optimizer:
    """The optimizer over all trainable parameters, `along` included, in two groups: with and without weight decay."""
    found = [(p, decays(one, name, p)) for one in (model, *along) for name, p in trainable(one).items()]
    decayed = [p for p, does in found if does]
    others = [p for p, does in found if not does]
    groups = [
        {"params": params, "weight_decay": decay}
        for params, decay in ((decayed, settings.weight_decay), (others, 0.0))
        if params
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.rate)
    return torch.optim.SGD(groups, lr=settings.rate, momentum=settings.momentum, nesterov=True)


def state_of(optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """`<parameter>/<what>` -> tensor: momentum, moments, counts."""
    return {
        f"{name}/{what}": value
        for name, parameter in parameters.items()
        for what, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


@torch.no_grad()
def load_state_(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], state: dict[str, Tensor]
) -> None:
    """Back from `state_of`, in the parameters' own memory order: kernels for another one may round differently."""
    for key, value in state.items():
        name, _, what = key.rpartition("/")
        parameter = parameters[name]
        if value.shape == parameter.shape and value.ndim:
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        optimizer.state[parameter][what] = value


@torch.no_grad()
def average_(average: nn.Module, model: nn.Module, decay: float) -> None:
    """One step of the exponential moving average: `a = decay a + (1 - decay) w`.

    Floating point parameters and buffers are averaged (statistics of normalizations belong to the weights), others
    copied.
    """
    for mean, value in zip(_tensors(average), _tensors(model), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1.0 - decay)
        else:
            mean.copy_(value)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
