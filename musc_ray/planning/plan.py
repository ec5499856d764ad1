"""Plan a job: list the archive as a run does, measure this machine, and pass both to the cost model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from musc_ray.backbones.describe import describe_backbone, describe_known
from musc_ray.backbones.shape import BackboneInfo
from musc_ray.core.compression_limits import MIN_IMAGES
from musc_ray.core.crops import CropInput
from musc_ray.errors import SettingsError
from musc_ray.features.arithmetic import Arithmetic, resolve_arithmetic
from musc_ray.features.known_good import vouched_images
from musc_ray.features.workspace import check_channels, requested_model
from musc_ray.planning.cost import Plan, plan_job, with_cheaper
from musc_ray.planning.crops import crop_inputs
from musc_ray.planning.formats import group_formats, stored_compression
from musc_ray.planning.gpu_types import gpu_rate
from musc_ray.planning.job import Job
from musc_ray.runtime.executor import choose
from musc_ray.runtime.hardware import LocalHardware, usable_cpus
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.scoring.tile_driver import MAX_SIDE, block_side
from musc_ray.settings.model import Settings
from musc_ray.settings.types import ExecutorName
from musc_ray.sources.catalog import Catalog, list_images
from musc_ray.sources.images import CatalogImage
from musc_ray.storage.group_crop_references import Meeting

if TYPE_CHECKING:
    from musc_ray.planning.calibration import Workload  # it imports torch

SAMPLE_IMAGES = 8


@dataclass(frozen=True)
class Machine:
    """The executor of a run, its workers, and the CPU threads of each."""

    executor: ExecutorName
    workers: int
    threads: int


def list_archive(settings: Settings, gpu: str | None = None) -> Catalog:
    """List the source of a job to be planned; its files are not read, but for those of unknown names.

    Args:
        settings, gpu: as for `plan_archive`; checked before anything is listed.

    Raises:
        SettingsError: no source, an unknown GPU type, or a setting that does not fit the backbone.
        MuscRayError: the source cannot be listed.
    """
    if settings.source is None:
        raise SettingsError("A plan needs a source: give one, as in `musc-ray plan SOURCE`.")
    if gpu is not None:
        gpu_rate(gpu.lower())
    known = describe_known(*requested_model(settings))
    if known is not None:
        check_channels(settings, known.channels)
    choose(ExecutorOptions.of(settings))
    return list_images(settings.source, settings.group_by, column=settings.column)


def plan_archive(settings: Settings, catalog: Catalog, gpu: str | None = None) -> Plan:
    """Estimate the cost of a run with these settings; some images are read, nothing is written.

    Args:
        settings: of the run.
        catalog: what its source lists.
        gpu: GPU type of the workers; None plans workers like this machine, which is measured.

    Raises:
        SettingsError: an unknown GPU type, or a setting that does not fit the backbone.
    """
    from musc_ray.planning import calibration  # here: it imports what it measures, torch among it

    info = describe_backbone(*requested_model(settings))
    check_channels(settings, info.channels)
    vouched = vouched_images(settings, catalog.groups)
    left = {name: images for name, images in vouched.without_known_good(catalog.groups).items() if images}
    if not left:
        raise SettingsError(f"All images of {settings.source} are known to be good: there is nothing to score.")
    catalog = replace(catalog, groups=left)
    good = {name: len(images) for name, images in vouched.known_good.items()}
    sample = _sample(list(catalog.groups.values()))
    cut = crop_inputs(settings, info, catalog.groups)
    crops = cut.get(max(catalog.groups, key=lambda name: len(catalog.groups[name])))
    job, arithmetic = _job(settings, info, catalog, cut, gpu, good)
    if gpu is not None:
        plan = plan_job(job, calibration.assumed_rates(gpu.lower(), info, sample, crops))
    else:
        from musc_ray.backbones.load import untrained_backbone

        backbone = untrained_backbone(info, device=arithmetic.device, precision=arithmetic.model_precision)
        workload = replace(_workload(settings, job, arithmetic), crops=crops)
        plan = plan_job(job, calibration.measured_rates(backbone, workload, sample))
    plan = with_cheaper(plan)
    if settings.compress != "none" or job.largest.images < MIN_IMAGES:
        return plan
    compressing = settings.model_copy(update={"compress": "auto"})
    job, arithmetic = _job(compressing, info, catalog, cut, gpu, good)
    rates = plan.rates
    if gpu is None:
        mutual = calibration.measured_mutual(info, _workload(settings, job, arithmetic), arithmetic.device)
        rates = replace(rates, mutual_operations=mutual)
    return replace(plan, compressed=plan_job(job, rates))


def _workload(settings: Settings, job: Job, arithmetic: Arithmetic) -> "Workload":
    """Return what each worker of this machine does while it is measured."""
    from musc_ray.planning.calibration import Workload

    here = max(1, usable_cpus() // job.threads)
    concurrent = min(job.workers, here) if arithmetic.device == "cpu" else 1
    neighbourhoods = settings.degrees, settings.aggregation
    return Workload(*neighbourhoods, job.largest, settings.batch_size, concurrent, job.threads, job.radius)


def this_machine(settings: Settings, device: str) -> Machine:
    """Return how a run with these settings would use machines like this one.

    Raises:
        SettingsError: settings that exclude each other.
    """
    options = ExecutorOptions.of(settings, device)
    if choose(options) == "process":
        return Machine("process", 1, settings.threads or usable_cpus())
    if device == "cuda":
        gpus = max(1, LocalHardware().gpus())
        return Machine("ray", settings.workers or gpus, settings.threads or max(1, usable_cpus() // gpus))
    threads = settings.threads or 1
    return Machine("ray", settings.workers or max(1, usable_cpus() // threads), threads)


def _sample(groups: list[list[CatalogImage]]) -> list[str]:
    """Choose images of the largest group; they are in the order of their hashed ids, so these are random ones."""
    return [image.uri for image in max(groups, key=len)[:SAMPLE_IMAGES]]


def _job(
    settings: Settings,
    info: BackboneInfo,
    catalog: Catalog,
    cut: Mapping[str, CropInput],
    gpu: str | None,
    good: Mapping[str, int],
) -> tuple[Job, Arithmetic]:
    """Return the shapes of a job, on GPUs of some kind or on machines like this one, and its arithmetic."""
    compressed, hardware = settings.compress != "none", LocalHardware()
    device = settings.device if gpu is None else "cuda"
    arithmetic = resolve_arithmetic(device, settings.precision, settings.model_precision, hardware, compressed)
    if gpu is None:
        machine = this_machine(settings, arithmetic.device)
    else:
        machine = Machine("ray", settings.workers or 1, settings.threads or 1)
    stored = stored_compression(settings, info, arithmetic, catalog.groups)
    sizes = {name: len(images) for name, images in catalog.groups.items()}
    formats = [
        replace(found, crops=cut[name].layout.count if name in cut else 0, known_good=good.get(name, 0))
        for name, found in zip(sizes, group_formats(settings, info, arithmetic, sizes, stored), strict=True)
    ]
    meeting: Meeting = "same" if settings.crop_meeting == "same" else "all"
    largest = max(formats, key=lambda found: found.images)
    shards = [-(-f.images // f.images_per_shard(settings.shard_size)) for f in formats if f.images >= 2]
    # of the square: where shapes are kept, each group has about as many patches
    sets, patches = largest.sets(meeting), info.grid[0] * info.grid[1]
    most = MAX_SIDE * largest.places // max(sets)  # as in scoring/driver.py: shards of crops are small
    distances = largest.images_per_shard(settings.shard_size) ** 2 * max(sets) * patches
    job = Job(
        groups=formats,
        info=info,
        vectors=settings.vectors,
        references=settings.reference_count,
        seed=settings.seed,
        shard_size=settings.shard_size,
        batch_size=settings.batch_size,
        on_gpu=arithmetic.device == "cuda",
        side=block_side(settings, shards, len(info.layers) * len(sets), distances, machine.workers, most),
        cache_bytes=settings.cache_mb * 2**20,
        executor=machine.executor,
        workers=machine.workers,
        threads=machine.threads,
        salient_vectors=settings.vectors if settings.rescoring == "rscon" else 0,
        radius=settings.radius if settings.matching == "near" else None,
        meeting=meeting,
    )
    return job, arithmetic
