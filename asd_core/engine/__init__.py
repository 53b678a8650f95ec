"""Engines: where a plan's tasks run."""
