"""Keeps libraries that probe for torchaudio from failing on a broken one."""

from __future__ import annotations

import sys
import types


def shield_from_broken_torchaudio() -> None:
    """A torchaudio wheel built for CUDA cannot load its library beside a CPU-only torch, and `peft` and `diffusers`,
    which only probe for it, would fail with it. The stand-in lets torchaudio's pure Python part load; nothing here
    calls it."""
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
