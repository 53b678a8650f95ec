"""Views: what a network or a scorer sees of a recording."""

from asd_core.registry import Registry
from asd_core.views.base import View

VIEWS: Registry[View] = Registry("view", "asd_core.views", View)
