"""The shape of a backbone by its name: from what is known of it, else from its library."""

from collections.abc import Sequence

from musc_ray.backbones.known import KNOWN
from musc_ray.backbones.names import resolve_backbone
from musc_ray.backbones.shape import QUARTERS, BackboneInfo


def describe_backbone(
    name: str,
    image_size: tuple[int, int] | None = None,
    layers: Sequence[int] | None = None,
    twelfths: Sequence[int] = QUARTERS,
) -> BackboneInfo:
    """Return the shape of a backbone, found without weights and checked against what is requested.

    The models of the aliases are known; for other names their library is imported, which takes seconds.

    Args:
        name: `open_clip:MODEL/TAG`, `timm:MODEL` or an alias.
        image_size: (H, W) in pixels; None for 518, or the largest multiple of the patch size below.
        layers: 0-based blocks; None for those at `twelfths` of the depth, see `layers_at`.
        twelfths: used where layers is None.

    Raises:
        SettingsError: unknown model, not a ViT, no such layer, or an image size that is not whole patches.
    """
    info = describe_known(name, image_size, layers, twelfths)
    if info is not None:
        return info
    from musc_ray.backbones.load import build_model

    resolved = resolve_backbone(name)
    return BackboneInfo.of(resolved.canonical, build_model(resolved, meta=True), image_size, layers, twelfths)


def describe_known(
    name: str,
    image_size: tuple[int, int] | None = None,
    layers: Sequence[int] | None = None,
    twelfths: Sequence[int] = QUARTERS,
) -> BackboneInfo | None:
    """Return the shape of a known backbone; None for one whose library must be asked. Otherwise `describe_backbone`."""
    canonical = resolve_backbone(name).canonical
    known = KNOWN.get(canonical)
    return None if known is None else BackboneInfo.of(canonical, known, image_size, layers, twelfths)
