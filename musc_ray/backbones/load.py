"""Build backbones: the model of a library, with its weights or with random ones."""

from collections.abc import Sequence

import torch

from musc_ray.backbones.base import Backbone, TokenModel
from musc_ray.backbones.names import BackboneName, resolve_backbone
from musc_ray.backbones.shape import BackboneInfo
from musc_ray.backbones.state_dict import load_state_dict
from musc_ray.backbones.weights import WeightsFile
from musc_ray.errors import MuscRayError, reason_of


def load_backbone(
    name: str,
    *,
    image_size: tuple[int, int] | None,
    layers: Sequence[int] | None,
    weights: WeightsFile,
    device: str = "cpu",
    precision: str = "float32",
) -> Backbone:
    """Load a backbone with its weights, ready to embed images.

    Args:
        name, image_size, layers: as in `describe_backbone`.
        weights: a local safetensors or PyTorch file.
        device: where it runs.
        precision: float32, bfloat16 or float16: of the products of linear layers and of attention.

    Raises:
        SettingsError: as in `describe_backbone`.
        MuscRayError: the weights do not fit the model.
    """
    resolved = resolve_backbone(name)
    model = build_model(resolved, meta=False)
    info = BackboneInfo.of(resolved.canonical, model, image_size, layers)
    model.module.load_state_dict(_fitting_state(model, weights, info.name), strict=True)
    model.resize(info.image_size)
    return Backbone(model, info, weights.sha256, device, precision)


def untrained_backbone(info: BackboneInfo, *, device: str = "cpu", precision: str = "float32") -> Backbone:
    """Build a backbone of this shape with random weights, to measure the speed of the real one."""
    model = build_model(resolve_backbone(info.name), meta=False)
    model.resize(info.image_size)
    return Backbone(model, info, "", device, precision)


def build_model(name: BackboneName, meta: bool) -> TokenModel:
    """Build a model; its library alone is imported.

    Args:
        name: of the model.
        meta: without memory for its weights, for its shape alone.

    Raises:
        SettingsError: unknown model, or not a ViT.
    """
    if name.library == "open_clip":
        from musc_ray.backbones.open_clip_vit import OpenClipVit

        return OpenClipVit(name, meta)
    from musc_ray.backbones.timm_vit import TimmVit

    return TimmVit(name, meta)


def _fitting_state(model: TokenModel, weights: WeightsFile, name: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a weights file under a model's names.

    Raises:
        MuscRayError: they do not fit the model; names both.
    """
    state = load_state_dict(weights.path)
    own = model.module.state_dict()
    try:
        adapted = model.adapt(state)
    except Exception as error:  # the libraries' adapters assume weights that fit, and raise what comes
        has = {True: "has", False: "has no"}
        in_file, in_model = "reg_token" in state or "register_tokens" in state, "reg_token" in own
        problem = f"the file {has[in_file]} register tokens, the model {has[in_model]} register tokens"
        problem = reason_of(error) if in_file == in_model else problem
        raise _misfit(weights, name, problem) from error
    _check_fit(adapted, own, weights, name)
    return adapted


def _misfit(weights: WeightsFile, name: str, problem: str) -> MuscRayError:
    return MuscRayError(f"{weights.path} does not fit {name}: {problem}; give weights of this model.")


def _check_fit(state: dict[str, torch.Tensor], own: dict[str, torch.Tensor], weights: WeightsFile, name: str) -> None:
    """Check that a weights file has exactly a model's tensors.

    Raises:
        MuscRayError: names the first tensor that does not fit.
    """
    for key in sorted(own.keys() | state.keys()):
        if key not in state:
            problem = f"it has no tensor '{key}'"
        elif key not in own:
            problem = f"it has an extra tensor '{key}'"
        elif state[key].shape != own[key].shape:
            problem = f"'{key}' is {tuple(state[key].shape)}, the model needs {tuple(own[key].shape)}"
        else:
            continue
        raise _misfit(weights, name, problem)
