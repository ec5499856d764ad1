"""What of a run's model is needed to embed further images: weights, arithmetic, the range of deep pixels."""

from musc_ray.backbones.names import resolve_backbone
from musc_ray.backbones.weights import WeightsFile, check_weights, fetch_weights
from musc_ray.checking.stored_group import StoredGroup
from musc_ray.errors import MuscRayError
from musc_ray.features.arithmetic import Arithmetic, resolve_arithmetic
from musc_ray.features.intensity import stored_range
from musc_ray.runtime.hardware import LocalHardware
from musc_ray.sources.deep import Range
from musc_ray.storage.manifest import RunManifest


def weights_of(run: RunManifest, given: str | None) -> WeightsFile:
    """Fetch the weights of a run.

    Args:
        run: complete.
        given: where they are now; None: where the run read them from.

    Raises:
        MuscRayError: they are not there, or are others.
    """
    name, weights = resolve_backbone(run.settings.backbone), given or run.settings.weights
    try:
        check_weights(name, weights)
        found = fetch_weights(name, weights)
    except MuscRayError as error:
        if given is not None:
            raise
        sha256 = run.resolved.weights_sha256[:12]
        raise MuscRayError(
            f"The weights of run {run.run_id} cannot be read ({str(error).rstrip('.')}): give --weights the file with "
            f"SHA-256 {sha256}..., wherever it is now."
        ) from error
    if found.sha256 != run.resolved.weights_sha256:
        raise MuscRayError(
            f"The weights at {found.path} have SHA-256 {found.sha256[:12]}..., those of run {run.run_id} "
            f"{run.resolved.weights_sha256[:12]}...: give --weights the file that the run used."
        )
    return found


def arithmetic_of(run: RunManifest) -> Arithmetic:
    """Return the arithmetic of a run; on its device if this machine has one, else on the CPU."""
    hardware, resolved, settings = LocalHardware(), run.resolved, run.settings
    device = "cuda" if resolved.device in ("cuda", None) and hardware.gpus() else "cpu"
    model_precision = resolved.model_precision or settings.model_precision
    return resolve_arithmetic(device, settings.precision, model_precision, hardware, settings.compress != "none")


def range_of(group: StoredGroup) -> Range | None:
    """Return the range of a group's deep pixels; None for a group without one."""
    bounds, given = group.run.intensity.get(group.name), group.run.settings.intensity
    if isinstance(given, tuple):
        return Range(*given)
    return None if bounds is None else stored_range(group.out_paths, group.run.features_id, group.name, bounds)
