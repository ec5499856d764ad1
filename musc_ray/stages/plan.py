"""Planning an archive: lists it as stage 1 does and hands the counts to the cost model."""

import os

import torch

from musc_ray.backbones import describe_backbone
from musc_ray.config import Settings
from musc_ray.core.precision import resolve_precision
from musc_ray.core.scoring import default_device
from musc_ray.errors import SettingsError
from musc_ray.plan import Plan, plan_job
from musc_ray.stages.archive import image_size_pair
from musc_ray.stages.catalog import catalog_images


def plan_archive(settings: Settings) -> Plan:
    """The cost of a run with these settings on this machine; nothing is written.

    Raises:
        SettingsError: no source.
        MuscRayError: the source cannot be listed.
    """
    if settings.source is None:
        raise SettingsError("A plan needs a source: give one, as in `musc-ray plan SOURCE`.")
    info = describe_backbone(settings.backbone, image_size_pair(settings), settings.layers)
    listed = catalog_images(settings.source, settings.group_by)
    device = torch.device(settings.device) if settings.device != "auto" else default_device()
    threads = settings.threads or 1
    if device.type == "cpu":
        torch.set_num_threads(threads)
        most = max(1, (os.cpu_count() or 1) // threads)
    else:
        most = torch.cuda.device_count()
    return plan_job(
        [len(images) for images in listed.values()],
        info,
        settings.degrees,
        settings.shard_size,
        resolve_precision(settings.precision, device, max(map(len, listed.values()))),
        device,
        settings.workers or most,
    )
