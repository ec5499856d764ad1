"""Types of GPU that a plan can be made for without one."""

from musc_ray.errors import SettingsError

GPU_RATES = {
    "l4": 121e12,
    "a10": 125e12,
    "l40s": 362e12,
    "a100": 312e12,
    "h100": 989e12,
    "h200": 989e12,
    "b200": 2250e12,
}
"""Dense bfloat16 operations per second from the vendors' data sheets."""


def gpu_rate(kind: str) -> float:
    """Return the operations per second of a GPU type.

    Raises:
        SettingsError: an unknown type.
    """
    if kind not in GPU_RATES:
        raise SettingsError(f"--gpu must be one of {', '.join(GPU_RATES)}, not '{kind}'.")
    return GPU_RATES[kind]
