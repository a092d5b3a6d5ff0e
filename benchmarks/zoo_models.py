"""Small architectures that come with no download: transformers classes from tiny configurations, and timm's.

Random weights: the zoo asks whether a graph is understood, quantized, written and run, not how accurate it is.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lissom.sources.optional import ready_torchvision

IMAGE = 64
FREE_IMAGE = 128
"""Side of the example of networks that take any."""
_TIMM = """
test_vit test_byobnet test_convnext test_convnext2 test_convnext3 test_efficientnet test_efficientnet_evos
test_efficientnet_gn test_efficientnet_ln test_mambaout test_nfnet test_resnet test_vit2 resnet18 resnext26ts
seresnext26d_32x4d mobilenetv2_035 mobilenetv3_small_050 mobilenetv4_conv_small_035 lcnet_035 tinynet_e
efficientnet_lite0 regnetx_002 regnety_002 edgenext_xx_small efficientvit_b0 darknet17 ese_vovnet19b_slim_dw dla46_c
skresnet18 poolformer_s12 mixer_s32_224 starnet_s1
"""
TIMM = _TIMM.split()
"""Those that take longest were left out, whatever became of them: the zoo takes ten minutes at most."""
TEXT = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
VISION = {"image_size": IMAGE, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 37}  # fmt: skip
DISTIL = {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 37}
HUGGING: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("Bert", "ForSequenceClassification", TEXT),
    "roberta": ("Roberta", "ForSequenceClassification", TEXT),
    "electra": ("Electra", "ForSequenceClassification", {**TEXT, "embedding_size": 32}),
    "albert": ("Albert", "ForSequenceClassification", {**TEXT, "embedding_size": 16}),
    "distilbert": ("DistilBert", "ForSequenceClassification", DISTIL),
    "mobilebert": ("MobileBert", "ForSequenceClassification", {**TEXT, "embedding_size": 32,
        "intra_bottleneck_size": 32, "true_hidden_size": 32}),
    "mpnet": ("MPNet", "ForSequenceClassification", TEXT),
    "deberta-v2": ("DebertaV2", "ForSequenceClassification", TEXT),
    "vit": ("ViT", "ForImageClassification", VISION),
    "deit": ("DeiT", "ForImageClassification", VISION),
    "beit": ("Beit", "ForImageClassification", VISION),
    "dinov2": ("Dinov2", "ForImageClassification", {k: v for k, v in VISION.items() if k != "intermediate_size"}),
    "convnext": ("ConvNext", "ForImageClassification", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}),
    "convnextv2": ("ConvNextV2", "ForImageClassification", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}),
    "resnet": ("ResNet", "ForImageClassification", {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64],
        "depths": [1, 1, 2, 1], "layer_type": "basic"}),
    "regnet": ("RegNet", "ForImageClassification", {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64],
        "depths": [1, 1, 2, 1], "groups_width": 16}),
    "mobilenet-v1": ("MobileNetV1", "ForImageClassification", {"image_size": IMAGE, "depth_multiplier": 0.25}),
    "mobilenet-v2": ("MobileNetV2", "ForImageClassification", {"image_size": IMAGE, "depth_multiplier": 0.35}),
    "efficientnet": ("EfficientNet", "ForImageClassification", {"image_size": IMAGE, "width_coefficient": 0.5,
        "depth_coefficient": 0.5, "hidden_dim": 640}),
    "segformer": ("Segformer", "ForSemanticSegmentation", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 32}),
    "swin": ("Swin", "ForImageClassification", {"image_size": IMAGE, "patch_size": 2, "embed_dim": 16,
        "depths": [1, 1, 1], "num_heads": [1, 2, 2], "window_size": 4}),
    "swinv2": ("Swinv2", "ForImageClassification", {"image_size": IMAGE, "patch_size": 2, "embed_dim": 16,
        "depths": [1, 1, 1], "num_heads": [1, 2, 2], "window_size": 4}),
    "poolformer": ("PoolFormer", "ForImageClassification", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}),
    "pvt": ("Pvt", "ForImageClassification", {"image_size": IMAGE, "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]}),
    "mobilevit": ("MobileViT", "ForImageClassification", {"image_size": IMAGE, "hidden_sizes": [32, 40, 48]}),
    "levit": ("Levit", "ForImageClassification", {"hidden_sizes": [16, 32, 48], "num_attention_heads": [2, 2, 2],
        "depths": [1, 1, 1], "key_dim": [8, 8, 8], "image_size": IMAGE}),
}  # fmt: skip


@dataclass(frozen=True)
class Net:
    """A network and one example: `model(*args, **kwargs)`. `build` is called in the process that needs it."""

    name: str
    source: str


def nets() -> list[Net]:
    """Everything that can be built here; timm only where it and torchvision are installed."""
    found = [Net(name, "transformers") for name in HUGGING]
    if importlib.util.find_spec("timm") and importlib.util.find_spec("torchvision"):
        found += [Net(name, "timm") for name in TIMM]
    return found


def build(net: Net) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    ready_torchvision()
    torch.manual_seed(0)
    makers: dict[str, Callable[[str], tuple[nn.Module, tuple[torch.Tensor, ...]]]] = {
        "transformers": _hugging,
        "timm": _timm,
    }
    model, example = makers[net.source](net.name)
    return model.eval(), example


def _hugging(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    import transformers

    prefix, suffix, settings = HUGGING[name]
    config = getattr(transformers, f"{prefix}Config")(**settings, num_labels=5)
    model = getattr(transformers, f"{prefix}{suffix}")(config)
    if suffix == "ForSequenceClassification":
        return model, (torch.randint(3, 99, (1, 16)),)
    return model, (torch.randn(1, 3, IMAGE, IMAGE),)


def _timm(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    import timm

    model = timm.create_model(name, num_classes=5)
    settings = model.default_cfg
    size = settings["input_size"][1]
    size = size if settings.get("fixed_input_size") else min(size, FREE_IMAGE)
    return model, (torch.randn(1, 3, size, size),)
