"""What runs in an OUT with the same settings have in common: backbone and weights, arithmetic, the features id."""

from dataclasses import dataclass

from musc_ray.backbones.describe import describe_backbone, describe_known
from musc_ray.backbones.names import model_module, resolve_backbone
from musc_ray.backbones.shape import BackboneInfo
from musc_ray.backbones.weights import check_weights, fetch_weights
from musc_ray.errors import SettingsError
from musc_ray.features.arithmetic import Arithmetic, resolve_arithmetic
from musc_ray.features.ids import features_id, features_values
from musc_ray.runtime.executor import Executor
from musc_ray.settings.model import Settings
from musc_ray.sources.catalog import check_source
from musc_ray.storage.filesystem import absolute, check_writable
from musc_ray.storage.manifest import RunManifest
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.requests import limit_requests
from musc_ray.storage.shards import FeaturesMeta


@dataclass(frozen=True)
class Workspace:
    """An OUT, and what all runs in it with the same settings have in common.

    Attributes:
        settings: as workers need them.
        out_paths: of the OUT.
        meta: what all shards of the features have in common, their id included.
        arithmetic: as resolved for the hardware of the workers.
    """

    settings: Settings
    out_paths: OutPaths
    meta: FeaturesMeta
    arithmetic: Arithmetic

    @property
    def patch(self) -> int:
        """Return the side of a patch in pixels of the model."""
        return self.meta.image_size[0] // self.meta.grid[0]


def source_and_out(settings: Settings) -> tuple[str, str]:
    """Return the source and the out of a run.

    Raises:
        SettingsError: one is missing.
    """
    if settings.source is None or settings.out is None:
        raise SettingsError("A run needs a source and an out: give both, as in `musc-ray run SOURCE OUT`.")
    return settings.source, settings.out


def check_start(settings: Settings) -> None:
    """Refuse a job that cannot work before anything is imported, started or downloaded for it.

    Raises:
        SettingsError: source or out is missing, or a backbone, image size or layers that do not exist.
        MuscRayError: there is no weights file, nothing at the source, or OUT cannot be written.
    """
    source, out = source_and_out(settings)
    limit_requests(settings.max_requests)
    known = describe_known(*requested_model(settings))
    if known is not None:
        check_channels(settings, known.channels)
    check_weights(resolve_backbone(settings.backbone), settings.weights)
    check_source(source, settings.group_by, settings.column)
    out_paths = OutPaths.at(out)
    check_writable(out_paths.fs, out_paths.root)


def open_out(settings: Settings, executor: Executor) -> Workspace:
    """Resolve backbone, weights and arithmetic, and the id of the features that they make.

    Args:
        settings: of the job, as `check_start` lets them pass.
        executor: knows the hardware of the workers.

    Raises:
        SettingsError: source or out is missing, or a setting does not fit the backbone.
        MuscRayError: weights or the cluster cannot be used.
    """
    _, out = source_and_out(settings)
    limit_requests(settings.max_requests)
    info, weights_sha256 = _backbone(settings, executor)
    check_channels(settings, info.channels)
    if settings.weights is not None:  # workers have another working directory
        settings = settings.model_copy(update={"weights": absolute(settings.weights)})
    out_paths = OutPaths.at(out)
    hardware = executor.hardware()
    compressed = settings.compress != "none"
    arithmetic = resolve_arithmetic(settings.device, settings.precision, settings.model_precision, hardware, compressed)
    values = features_values(settings, info, weights_sha256, arithmetic)
    meta = features_meta(info, weights_sha256, features_id(values), settings.stored_dtype(compressed=False))
    return Workspace(settings, out_paths, meta, arithmetic)


def _backbone(settings: Settings, executor: Executor) -> tuple[BackboneInfo, str]:
    """Return the shape of the backbone, and the hash of its weights; a library is asked only where workers run."""
    name, model = resolve_backbone(settings.backbone), requested_model(settings)
    info = describe_known(*model)
    if info is not None:
        return info, fetch_weights(name, settings.weights).sha256
    info = executor.run_function(describe_backbone, *model)
    if settings.weights is not None:
        return info, fetch_weights(name, settings.weights).sha256
    return info, executor.run_function(fetch_weights, name, None).sha256


def start_workers(workspace: Workspace, executor: Executor) -> None:
    """Begin to start the workers, while the source is listed, unless OUT has a complete run: it may be this one."""
    out_paths = workspace.out_paths
    if not any(RunManifest.read(out_paths.run(run_id)) is not None for run_id in out_paths.run_ids()):
        modules = ("musc_ray.features.extractor", model_module(workspace.settings.backbone))
        executor.start(workspace.arithmetic.device, modules)


def image_size_pair(settings: Settings) -> tuple[int, int] | None:
    """Return the requested (H, W): a single number means a square, None the backbone's default."""
    size = settings.image_size
    return (size, size) if isinstance(size, int) else size


def requested_model(
    settings: Settings,
) -> tuple[str, tuple[int, int] | None, tuple[int, ...] | None, tuple[int, ...]]:
    """Return the arguments of `describe_backbone` and `describe_known`: name, (H, W), layers, and twelfths for None."""
    return settings.backbone, image_size_pair(settings), settings.layers, settings.constants.twelfths


def features_meta(info: BackboneInfo, weights_sha256: str, features_id: str, dtype: str = "float16") -> FeaturesMeta:
    """Return what all shards of a run have in common; compressed ones differ, see `bases.compressed_meta`."""
    return FeaturesMeta(
        grid=info.grid,
        layers=info.layers,
        channels=info.channels,
        class_channels=info.class_channels,
        image_size=info.image_size,
        backbone=info.name,
        weights_sha256=weights_sha256,
        features_id=features_id,
        dtype=dtype,
    )


def check_channels(settings: Settings, channels: int) -> None:
    """Refuse to keep more directions than tokens have channels.

    Raises:
        SettingsError: names both.
    """
    if isinstance(settings.compress, int) and settings.compress > channels:
        raise SettingsError(
            f"Setting 'compress' is {settings.compress}, but tokens of {settings.backbone} have {channels} channels: "
            f"use auto, none, or at most {channels}."
        )
