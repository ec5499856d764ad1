"""Vision transformers from open_clip and timm, at any image size, with weights from a hub, a file or an object URI."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from musc_ray.backbones.base import Backbone, BackboneInfo, Tokens
    from musc_ray.backbones.load import describe_backbone, load_backbone, untrained_backbone

__all__ = ["Backbone", "BackboneInfo", "Tokens", "describe_backbone", "load_backbone", "untrained_backbone"]


def __getattr__(name: str) -> Any:
    """Import torch and the model libraries only when a backbone is used: `musc_ray.backbones.names` stays light."""
    if name in ("describe_backbone", "load_backbone", "untrained_backbone"):
        return getattr(import_module("musc_ray.backbones.load"), name)
    if name in __all__:
        return getattr(import_module("musc_ray.backbones.base"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
