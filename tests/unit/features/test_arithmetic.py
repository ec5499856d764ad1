import pytest

from musc_ray.features.arithmetic import Arithmetic, resolve_arithmetic


class FakeHardware:
    """Hardware that notes what it is asked."""

    def __init__(self, gpus: int, bfloat16: bool, int8: bool = False) -> None:
        self.found, self.asked = {"gpus": gpus, "bfloat16": bfloat16, "int8": int8}, []

    def gpus(self) -> int:
        self.asked.append("gpus")
        return self.found["gpus"]

    def bfloat16(self) -> bool:
        self.asked.append("bfloat16")
        return self.found["bfloat16"]

    def int8(self) -> bool:
        self.asked.append("int8")
        return self.found["int8"]


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


@pytest.mark.parametrize(
    ("gpus", "bfloat16", "int8", "precision", "whole", "compressed"),
    [
        (0, True, True, "auto", "bfloat16", "int8"),
        (0, False, True, "auto", "float32", "int8"),
        (0, True, False, "auto", "bfloat16", "bfloat16"),
        (1, False, False, "auto", "float16", "int8"),
        (0, True, True, "float32", "float32", "float32"),
        (0, False, False, "int8", "int8", "int8"),
    ],
)
def test_compressed_groups_are_scored_in_int8_where_it_is_fast(gpus, bfloat16, int8, precision, whole, compressed):
    found = resolve_arithmetic("auto", precision, "float32", FakeHardware(gpus, bfloat16, int8), compressed=True)
    assert found.precision_for(64) == whole
    assert found.precision_for(64, compressed=True) == compressed
    small = "float32" if precision == "auto" else precision
    assert found.precision_for(63, compressed=True) == small
    assert found.precisions == {whole, compressed, small}
    assert found.model_precision == "float32"


def test_hardware_is_asked_for_int8_only_where_features_are_compressed_and_auto_decides():
    for device, precision, asked in (("cpu", "auto", ["bfloat16", "int8"]), ("cpu", "int8", []), ("cuda", "auto", [])):
        hardware = FakeHardware(0, True, True)
        resolve_arithmetic(device, precision, "float32", hardware, compressed=True)
        assert hardware.asked == asked


def test_the_identity_has_the_device_only_where_scores_depend_on_it():
    def identity(device, precision, **more):
        return Arithmetic(device, precision, "float32", **more).identity(100)

    for precision in ("float32", "int8"):
        assert identity("cpu", precision) == identity("cuda", precision)
    assert identity("cpu", "bfloat16") != identity("cuda", "bfloat16")
    assert identity("cpu", "bfloat16") == {"precision": "bfloat16", "device": "cpu", "exact_below": 0}
    plain, compressed = (identity("cpu", "bfloat16", compressed_precision=other) for other in (None, "int8"))
    assert plain != compressed
    assert identity("cpu", "bfloat16", compressed_precision="bfloat16") == plain
