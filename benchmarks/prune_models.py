"""Networks that P6 prunes: the smallest configuration of every timm family, transformers classes, a detector.

Nothing is downloaded, weights are random. A family is one of timm's modules (`timm.list_modules()`); its smallest
configuration has the fewest parameters, counted on the meta device.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.detector import Detector
from benchmarks.zoo_models import HUGGING, IMAGE, Net
from lissom.sources.optional import ready_torchvision
from lissom.task import Batch

Made = tuple[nn.Module, Batch]
CLASSIFIERS = ("bert", "deberta-v2", "segformer")
"""Built as the ZOO builds them."""


def nets(kept: Path) -> list[Net]:
    """Everything, smallest first. Which configuration is the smallest of its family is remembered in `kept`."""
    found = [Net("detector", "here"), *(Net(name, "transformers") for name in (*CLASSIFIERS, *_OTHERS))]
    counts = smallest(kept / f"families-{_timm_version()}.json")
    return found + [Net(name, "timm") for _, name in sorted((count, name) for name, count in counts.values())]


def smallest(path: Path) -> dict[str, tuple[str, int]]:
    """Family to its configuration with the fewest parameters, and how many. Nothing is left out but timm's own toys."""
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    ready_torchvision()
    import timm

    found: dict[str, tuple[str, int]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for family in sorted(timm.list_modules()):
            names = [n for n in timm.list_models(module=family, include_tags=False) if not n.startswith("test_")]
            counts = [(count, name) for name in names if (count := _parameters(name)) is not None]
            # None can be counted: one is tried all the same, and its row says what is wrong.
            count, name = min(counts) if counts else (0, names[0])
            found[family] = (name, count)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found), encoding="utf-8")
    return found


def _parameters(name: str) -> int | None:
    import timm

    try:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in timm.create_model(name).parameters())
    except Exception:  # noqa: BLE001  some configurations compute with their weights while they are built
        return None


def _timm_version() -> str:
    import importlib.metadata

    return importlib.metadata.version("timm")


def build(net: Net) -> Made:
    ready_torchvision()
    torch.manual_seed(0)
    makers: dict[str, Callable[[str], Made]] = {"here": _detector, "transformers": _hugging, "timm": _timm}
    model, example = makers[net.source](net.name)
    disturb_(model)
    return model.eval(), example


@torch.no_grad()
def disturb_(model: nn.Module) -> None:
    """Scales, shifts and statistics away from 0 and 1: what is zero by initialization would hide a wrong cut."""
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-1, 1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or "gamma" in name or float(parameter.abs().max()) < 1e-4:
            parameter.uniform_(0.2, 1)


def _timm(name: str) -> Made:
    import timm

    model = timm.create_model(name)
    size = timm.data.resolve_model_data_config(model)["input_size"]
    return model, Batch((torch.randn(1, *size),))


def _detector(_: str) -> Made:
    return Detector(), Batch((torch.randn(1, 3, IMAGE, IMAGE),))


def _hugging(name: str) -> Made:
    import transformers

    if name in _OTHERS:
        return _OTHERS[name](transformers)
    prefix, suffix, settings = HUGGING[name]
    config = getattr(transformers, f"{prefix}Config")(**settings, num_labels=5)
    example = torch.randn(1, 3, IMAGE, IMAGE) if "Image" in suffix or "Semantic" in suffix else _words()
    return getattr(transformers, f"{prefix}{suffix}")(config), Batch((example,))


def _words(length: int = 16) -> torch.Tensor:
    return torch.randint(3, 99, (1, length))


_ENDS = {"bos_token_id": 1, "eos_token_id": 2, "use_cache": False}


def _gpt2(hf: Any) -> Made:
    config = hf.GPT2Config(vocab_size=99, n_positions=32, n_embd=64, n_layer=2, n_head=4, **_ENDS)
    return hf.GPT2LMHeadModel(config), Batch((_words(),))


def _llama(hf: Any) -> Made:
    """Eight heads of queries share two of keys and values."""
    config = hf.LlamaConfig(vocab_size=99, hidden_size=128, intermediate_size=80, num_hidden_layers=2,
        num_attention_heads=8, num_key_value_heads=2, **_ENDS)  # fmt: skip
    return hf.LlamaForCausalLM(config), Batch((_words(),))


def _t5(hf: Any) -> Made:
    config = hf.T5Config(vocab_size=99, d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4, use_cache=False)
    return hf.T5ForConditionalGeneration(config), Batch((), {"input_ids": _words(), "decoder_input_ids": _words(8)})


def _whisper_encoder(hf: Any) -> Made:
    config = hf.WhisperConfig(vocab_size=99, num_mel_bins=16, d_model=64, encoder_layers=2, encoder_attention_heads=4,
        encoder_ffn_dim=96, decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=96, max_source_positions=32,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)  # fmt: skip
    return hf.WhisperModel(config).get_encoder(), Batch((torch.randn(1, 16, 64),))


def _detr(hf: Any) -> Made:
    backbone = hf.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1],
        layer_type="basic", out_features=["stage4"])  # fmt: skip
    config = hf.DetrConfig(use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        backbone_config=backbone, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=96, decoder_ffn_dim=96, num_queries=10, num_labels=5)  # fmt: skip
    return hf.DetrForObjectDetection(config), Batch((torch.randn(1, 3, IMAGE, IMAGE),))


_OTHERS: dict[str, Callable[[Any], Made]] = {
    "gpt2": _gpt2,
    "llama": _llama,
    "t5": _t5,
    "whisper-encoder": _whisper_encoder,
    "detr": _detr,
}
