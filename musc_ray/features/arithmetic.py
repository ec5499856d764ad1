"""The arithmetic of a run: resolved once by the driver, part of the ids, given to the workers as it is."""

from dataclasses import dataclass

from musc_ray.core import MIN_IMAGES_LOW_PRECISION, auto_precision
from musc_ray.runtime.hardware import Hardware


@dataclass(frozen=True)
class Arithmetic:
    """Where and in which number formats a run computes.

    Attributes:
        device: cpu or cuda.
        precision: float32, bfloat16, float16 or int8: of mutual scoring.
        model_precision: float32, bfloat16 or float16: of the backbone.
        exact_below: groups of fewer images are scored in float32, as `precision: auto` does; 0: none.
        compressed_precision: of mutual scoring of groups whose features are compressed; None: `precision`.
    """

    device: str
    precision: str
    model_precision: str
    exact_below: int = 0
    compressed_precision: str | None = None

    def precision_for(self, images: int, compressed: bool = False) -> str:
        """Return the precision of mutual scoring for a group of this many images, whose features may be compressed."""
        if images < self.exact_below:
            return "float32"
        return self.compressed_precision or self.precision if compressed else self.precision

    @property
    def precisions(self) -> set[str]:
        """All precisions of mutual scoring that groups of the run may have."""
        large = {self.precision, self.compressed_precision or self.precision}
        return large | {self.precision_for(0)}

    def identity(self, largest_group: int) -> dict[str, object]:
        """Return what enters the run id: equal where scores are equal.

        In float32 and int8 the devices agree to rounding, so that a run may be resumed on another one. Products of
        other precisions are rounded in another way on each: the device is part of the identity.

        Args:
            largest_group: listed images of the largest group.
        """
        precision = self.precision_for(largest_group)
        found: dict[str, object] = {"precision": precision}
        if precision not in ("float32", "int8"):
            found["device"] = self.device
        if precision != "float32":
            found["exact_below"] = self.exact_below
        if self.precision_for(largest_group, compressed=True) != precision:
            found["compressed_precision"] = self.compressed_precision
        return found


def resolve_arithmetic(
    device: str, precision: str, model_precision: str, hardware: Hardware, compressed: bool = False
) -> Arithmetic:
    """Return what the settings of these names mean on the hardware that the workers run on.

    Args:
        device: cpu, cuda, or auto: cuda where there is a GPU.
        precision: a number format, or auto: see `core.auto_precision`.
        model_precision: likewise; `auto` moves image AUROC by less than 0.001 (`tests/benchmarks/bench_precision.py`),
            and MuSc's own code runs the backbone in float16, PyTorch's autocast on a GPU (models/musc.py).
        hardware: asked only what a setting depends on.
        compressed: whether groups of the run may have compressed features.
    """
    if device == "auto":
        device = "cuda" if hardware.gpus() else "cpu"
    depends = "auto" in (precision, model_precision) and device == "cpu"
    has_bfloat16 = depends and hardware.bfloat16()
    best = auto_precision(device, has_bfloat16)
    of_compressed = None
    if precision == "auto" and compressed:
        of_compressed = auto_precision(device, has_bfloat16, int8_pays=device == "cuda" or hardware.int8())
    return Arithmetic(
        device=device,
        precision=best if precision == "auto" else precision,
        model_precision=best if model_precision == "auto" else model_precision,
        exact_below=MIN_IMAGES_LOW_PRECISION if precision == "auto" else 0,
        compressed_precision=of_compressed,
    )
