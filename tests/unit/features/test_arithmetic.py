import pytest

from musc_ray.features.arithmetic import Arithmetic, resolve_arithmetic


class FakeHardware:
    """Hardware that notes what it is asked."""

    def __init__(self, gpus: int, bfloat16: bool) -> None:
        self.found, self.asked = {"gpus": gpus, "bfloat16": bfloat16}, []

    def gpus(self) -> int:
        self.asked.append("gpus")
        return self.found["gpus"]

    def bfloat16(self) -> bool:
        self.asked.append("bfloat16")
        return self.found["bfloat16"]


@pytest.mark.parametrize(
    ("device", "precision", "model_precision", "asked"),
    [
        ("cpu", "float32", "float32", []),
        ("cuda", "auto", "auto", []),
        ("auto", "float32", "float32", ["gpus"]),
        ("cpu", "auto", "float32", ["bfloat16"]),
        ("auto", "float32", "auto", ["gpus", "bfloat16"]),
    ],
)
def test_hardware_is_asked_only_what_a_setting_depends_on(device, precision, model_precision, asked):
    hardware = FakeHardware(0, True)
    resolve_arithmetic(device, precision, model_precision, hardware)
    assert hardware.asked == asked


@pytest.mark.parametrize(
    ("gpus", "bfloat16", "device", "best"),
    [(0, False, "cpu", "float32"), (0, True, "cpu", "bfloat16"), (2, True, "cuda", "float16")],
)
def test_auto_is_the_fastest_that_the_hardware_has(gpus, bfloat16, device, best):
    found = resolve_arithmetic("auto", "auto", "auto", FakeHardware(gpus, bfloat16))
    assert found == Arithmetic(device, best, best, exact_below=64)


def test_named_precisions_hold_on_any_hardware():
    for hardware in (FakeHardware(0, False), FakeHardware(1, True)):
        found = resolve_arithmetic("cpu", "bfloat16", "float32", hardware)
        assert found == Arithmetic("cpu", "bfloat16", "float32")
        assert found.precision_for(2) == "bfloat16"


def test_small_groups_are_exact_where_precision_is_auto():
    found = Arithmetic("cuda", "float16", "float32", exact_below=64)
    assert [found.precision_for(images) for images in (2, 63, 64)] == ["float32", "float32", "float16"]
