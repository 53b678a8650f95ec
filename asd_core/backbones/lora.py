"""Low-rank adaptation through `peft`: W + (α / r) · B A with the base weights left as they are (Hu et al., ICLR 2022)."""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence

from torch import nn


def add_lora(module: nn.Module, targets: Sequence[str], rank: int, alpha: float) -> None:
    """Wrap every linear layer of `module` whose name ends with one of `targets`, in place; only A and B train."""
    _shield_from_broken_torchaudio()
    from peft import LoraConfig, inject_adapter_in_model

    # B starts at zero: before the first step the adapted network is the base network
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=list(targets))  # type: ignore[arg-type]
    inject_adapter_in_model(config, module)


def _shield_from_broken_torchaudio() -> None:
    """A torchaudio wheel built for CUDA cannot load its library beside a CPU-only torch, and `peft`, which only
    probes for it, would fail with it. The stand-in lets torchaudio's pure Python part load; nothing here calls it."""
    try:
        import torchaudio  # noqa: F401
    except ImportError:
        return  # not installed: nothing to probe
    except OSError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
            del sys.modules[name]
        stand_in = types.ModuleType("torchaudio._extension")
        stand_in.__path__ = []
        sys.modules["torchaudio._extension"] = stand_in
