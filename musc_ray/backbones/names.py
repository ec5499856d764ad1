"""Backbone names: `open_clip:MODEL/TAG`, `timm:MODEL` and short aliases.

A model library is imported only to suggest names for an unknown one that no alias is near to.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from musc_ray.errors import SettingsError

ALIASES = {
    "clip-vit-b-16": "open_clip:ViT-B-16/openai",
    "clip-vit-b-32": "open_clip:ViT-B-32/openai",
    "clip-vit-l-14": "open_clip:ViT-L-14/openai",
    "clip-vit-l-14-336": "open_clip:ViT-L-14-336/openai",
    "dino-vit-b-16": "timm:vit_base_patch16_224.dino",
    "dino-vit-b-8": "timm:vit_base_patch8_224.dino",
    "dino-vit-s-16": "timm:vit_small_patch16_224.dino",
    "dino-vit-s-8": "timm:vit_small_patch8_224.dino",
    "dinov2-vit-b-14": "timm:vit_base_patch14_dinov2.lvd142m",
    "dinov2-vit-b-14-reg": "timm:vit_base_patch14_reg4_dinov2.lvd142m",
    "dinov2-vit-g-14": "timm:vit_giant_patch14_dinov2.lvd142m",
    "dinov2-vit-l-14": "timm:vit_large_patch14_dinov2.lvd142m",
    "dinov2-vit-l-14-reg": "timm:vit_large_patch14_reg4_dinov2.lvd142m",
    "dinov2-vit-s-14": "timm:vit_small_patch14_dinov2.lvd142m",
    "dinov2-vit-s-14-reg": "timm:vit_small_patch14_reg4_dinov2.lvd142m",
    "dinov3-vit-b-16": "timm:vit_base_patch16_dinov3.lvd1689m",
    "dinov3-vit-l-16": "timm:vit_large_patch16_dinov3.lvd1689m",
    "dinov3-vit-s-16": "timm:vit_small_patch16_dinov3.lvd1689m",
}

NEAR = 0.7
"""Similarity from which an alias, or its model, is suggested without a look at the libraries; 1 is equal."""


@dataclass(frozen=True)
class BackboneName:
    """A model of a library; `tag` names the pretrained weights (open_clip's tag, or the part after timm's dot)."""

    library: Literal["open_clip", "timm"]
    model: str
    tag: str | None

    @property
    def canonical(self) -> str:
        """Return the name in full: `timm:vit_small_patch14_dinov2.lvd142m`, `open_clip:ViT-L-14-336/openai`."""
        separator = "/" if self.library == "open_clip" else "."
        return f"{self.library}:{self.model}" + (f"{separator}{self.tag}" if self.tag else "")


def model_module(name: str) -> str:
    """Return the module that builds the models of a backbone's library, whose import takes seconds."""
    return f"musc_ray.backbones.{resolve_backbone(name).library}_vit"


def resolve_backbone(name: str) -> BackboneName:
    """Parse a backbone name or alias.

    Raises:
        SettingsError: neither; names the nearest ones. Whether the library has the model is checked on building it.
    """
    library, _, rest = ALIASES.get(name, name).partition(":")
    if library == "open_clip" and rest:
        model, _, tag = rest.partition("/")
        return BackboneName("open_clip", model, tag or None)
    if library == "timm" and rest:
        model, _, tag = rest.partition(".")
        return BackboneName("timm", model, tag or None)
    raise SettingsError(
        f"Unknown backbone '{name}': did you mean {' or '.join(_nearest(name))}? Other models are named "
        f"open_clip:MODEL/TAG or timm:MODEL."
    )


def _nearest(name: str) -> list[str]:
    """Return valid names close to an unknown one: aliases and their models, else pretrained models of both libraries.

    Their import takes seconds: they are asked only about names that are written as theirs, with `_` or `/`.
    """
    wanted = name.lower()
    known = {full.partition(":")[2].lower(): full for full in ALIASES.values()} | {alias: alias for alias in ALIASES}
    near = get_close_matches(wanted, known, n=3, cutoff=NEAR)
    if not near:
        known |= _library_names() if "_" in name or "/" in name else {}
        near = get_close_matches(wanted, known, n=3, cutoff=0.6)
    return [known[match] for match in near] or ["clip-vit-l-14-336", "dinov2-vit-s-14"]


def _library_names() -> dict[str, str]:
    """Return all pretrained models of both libraries in full, by their names in lower case."""
    import open_clip
    import timm

    names = {f"{model.lower()}/{tag}": f"open_clip:{model}/{tag}" for model, tag in open_clip.list_pretrained()}
    return names | {model.lower(): f"timm:{model}" for model in timm.list_models(pretrained=True)}


def unknown_model(name: BackboneName, known: list[str]) -> SettingsError:
    """Return the error for a model that its library does not list; it names the nearest ones."""
    near = get_close_matches(name.model, known, n=3, cutoff=0.4)
    hint = f": did you mean {' or '.join(near)}?" if near else "."
    return SettingsError(f"Unknown backbone '{name.canonical}': {name.library} has no model '{name.model}'{hint}")


def check_tag(name: BackboneName, known: list[str]) -> None:
    """Check that a library lists a pretrained tag, which also decides how images are normalised.

    Raises:
        SettingsError: it does not; names the tags of the model.
    """
    if name.tag not in known:
        tags = ", ".join(known) or "none, leave it out"
        raise SettingsError(
            f"'{name.canonical}' names no pretrained weights of {name.library}; tags of {name.model}: {tags}."
        )
