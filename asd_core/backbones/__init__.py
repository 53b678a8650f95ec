"""Backbones: networks that turn a view of a clip into embeddings."""

from asd_core.backbones.base import Backbone
from asd_core.registry import Registry

BACKBONES: Registry[Backbone] = Registry("backbone", "asd_core.backbones", Backbone)
