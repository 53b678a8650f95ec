"""Low-rank adaptation through `peft`: W + (α / r) · B A with the base weights left as they are (Hu et al., ICLR 2022)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from asd_core.shield import shield_from_broken_torchaudio


def add_lora(module: nn.Module, targets: Sequence[str], rank: int, alpha: float) -> None:
    """Wrap every linear layer of `module` whose name ends with one of `targets`, in place; only A and B train."""
    shield_from_broken_torchaudio()
    from peft import LoraConfig, inject_adapter_in_model

    # B starts at zero: before the first step the adapted network is the base network
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=list(targets))  # type: ignore[arg-type]
    inject_adapter_in_model(config, module)
