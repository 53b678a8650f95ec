"""ASD Studio: train, score, explain and export anomalous-sound detectors (DCASE 2026 Task 2)."""

__version__ = "0.1.0"
