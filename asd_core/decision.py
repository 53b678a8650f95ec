"""Where normal ends: thresholds learnt from the scores of normal training clips, never from labels."""
