"""Vision transformers from open_clip and timm, at any image size, with weights from a hub, a file or an object URI."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from musc_ray.backbones.base import Backbone, Tokens
    from musc_ray.backbones.describe import describe_backbone
    from musc_ray.backbones.load import load_backbone, untrained_backbone
    from musc_ray.backbones.shape import BackboneInfo

__all__ = ["Backbone", "BackboneInfo", "Tokens", "describe_backbone", "load_backbone", "untrained_backbone"]


MODULES = {
    "Backbone": "base",
    "BackboneInfo": "shape",
    "Tokens": "base",
    "describe_backbone": "describe",
    "load_backbone": "load",
    "untrained_backbone": "load",
}
"""The module of each public name."""


def __getattr__(name: str) -> Any:
    """Import torch and the model libraries only when a model is built: names and shapes stay light."""
    if name in MODULES:
        return getattr(import_module(f"musc_ray.backbones.{MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
