"""Each family against a direct run of its library, with small random weights; names, sizes, layers and weights."""

import pickle

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

from musc_ray.backbones import describe_backbone, load_backbone, state_dict
from musc_ray.backbones.names import ALIASES, resolve_backbone
from musc_ray.backbones.shape import QUARTERS, layers_at
from musc_ray.backbones.state_dict import load_state_dict
from musc_ray.backbones.weights import WeightsFile, fetch_weights
from musc_ray.errors import MuscRayError, SettingsError

TIMM_MODELS = {
    "vit_small_patch14_dinov2": ((70, 98), True),
    "vit_small_patch14_reg4_dinov2": ((56, 56), True),
    "vit_small_patch16_224": ((64, 96), True),
    "vit_small_patch8_224": ((32, 48), True),
    "vit_small_patch16_dinov3": ((64, 96), True),
    "vit_tiny_patch16_224": ((224, 224), True),
    "vit_medium_patch16_gap_256": ((64, 64), False),
}
IMAGES = torch.randint(0, 256, (2, 300, 300, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def saved(model: torch.nn.Module, path) -> WeightsFile:
    text_tower = ("transformer.", "token_embedding.", "text.")  # large, and never loaded
    state = {key: value.contiguous() for key, value in model.state_dict().items() if not key.startswith(text_tower)}
    save_file(state, path)
    return fetch_weights(resolve_backbone("dinov2-vit-s-14"), str(path))


def normalised(images: torch.Tensor, mean, std) -> torch.Tensor:
    pixels = images.permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


@pytest.mark.parametrize("name", TIMM_MODELS)
def test_timm_tokens_equal_a_direct_run(name, tmp_path):
    image_size, has_class_token = TIMM_MODELS[name]
    reference = timm.create_model(name, pretrained=False)  # with its classifier: checkpoints have one
    weights = saved(reference, tmp_path / "weights.safetensors")
    backbone = load_backbone(f"timm:{name}", image_size=image_size, layers=(1, 7), weights=weights)
    images = IMAGES[:, : image_size[0], : image_size[1]]
    tokens = backbone.forward(images)
    reference.set_input_size(img_size=image_size)
    reference.eval()
    with torch.no_grad():
        x = normalised(images, reference.default_cfg["mean"], reference.default_cfg["std"])
        stream = {}
        for number, block in enumerate(reference.blocks):
            block.register_forward_hook(lambda _m, _i, out, number=number: stream.__setitem__(number, out))
        final = reference.forward_features(x)
    prefix = reference.num_prefix_tokens
    for layer, result in zip((1, 7), tokens.layers, strict=True):
        expected = reference.norm(stream[layer])[:, prefix:].detach()
        assert result.shape == (2, backbone.info.grid[0] * backbone.info.grid[1], backbone.info.channels)
        torch.testing.assert_close(result.half(), expected.half(), rtol=2e-3, atol=2e-3)
    expected_class = final[:, 0] if has_class_token else final[:, prefix:].mean(dim=1)
    torch.testing.assert_close(tokens.class_tokens, expected_class, rtol=1e-4, atol=1e-4)
    assert backbone.info == describe_backbone(f"timm:{name}", image_size, (1, 7))


@pytest.mark.parametrize(("tag", "quick"), [("openai", True), ("laion2b_s34b_b79k", False)])
@pytest.mark.slow
def test_open_clip_tokens_equal_a_direct_run(tag, quick, tmp_path):
    reference = open_clip.create_model("ViT-B-32", force_quick_gelu=quick, force_image_size=(96, 160)).eval()
    native = open_clip.create_model("ViT-B-32", force_quick_gelu=quick)
    weights = saved(native, tmp_path / "weights.safetensors")
    state = native.state_dict()
    open_clip.model.resize_pos_embed(state, reference)
    reference.load_state_dict(state)
    name = f"open_clip:ViT-B-32/{tag}"
    backbone = load_backbone(name, image_size=(96, 160), layers=(2, 11), weights=weights)
    assert backbone.info.grid == (3, 5)
    images = IMAGES[:, :96, :160]
    tokens = backbone.forward(images)
    stream = {}
    for number, block in enumerate(reference.visual.transformer.resblocks):
        block.register_forward_hook(lambda _m, _i, out, number=number: stream.__setitem__(number, out))
    with torch.no_grad():
        embedding = reference.encode_image(
            normalised(images, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
        )
    for layer, result in zip((2, 11), tokens.layers, strict=True):
        torch.testing.assert_close(result.half(), stream[layer][:, 1:].half(), rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(tokens.class_tokens, embedding, rtol=1e-4, atol=1e-4)
    assert backbone.info == describe_backbone(name, (96, 160), (2, 11))


@pytest.mark.slow
def test_open_clip_towers_built_on_timm(tmp_path):
    reference = open_clip.create_model("ViT-B-16-SigLIP").eval()
    weights = saved(reference, tmp_path / "weights.safetensors")
    backbone = load_backbone("open_clip:ViT-B-16-SigLIP/webli", image_size=(224, 224), layers=(3,), weights=weights)
    images = IMAGES[:, :224, :224]
    tokens = backbone.forward(images)
    with torch.no_grad():
        embedding = reference.encode_image(normalised(images, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
    torch.testing.assert_close(tokens.class_tokens, embedding, rtol=1e-4, atol=1e-4)
    assert tokens.layers[0].shape == (2, 196, 768)


def test_a_larger_batch_gives_the_same(tmp_path):
    weights = saved(timm.create_model("vit_tiny_patch16_224"), tmp_path / "weights.safetensors")
    backbone = load_backbone("timm:vit_tiny_patch16_224", image_size=(64, 64), layers=(5,), weights=weights)
    images = IMAGES[:, :64, :64]
    both, alone = backbone.forward(images), backbone.forward(images[:1])
    torch.testing.assert_close(both.layers[0][:1], alone.layers[0], rtol=1e-4, atol=1e-4)


def check_resizing(name, weights, patch):
    """Tokens at a size are bitwise the same whether the model had it from the start, or after others."""
    sizes = [(4 * patch, 4 * patch), (6 * patch, 3 * patch), (2 * patch, 8 * patch)]  # the first and last: 16 patches
    moving = load_backbone(name, image_size=sizes[0], layers=(1, 3), weights=weights)
    for size in (*sizes, sizes[0], sizes[1]):
        moving.resize(size)
        fresh = load_backbone(name, image_size=size, layers=(1, 3), weights=weights)
        assert moving.info == fresh.info
        images = IMAGES[:, : size[0], : size[1]]
        found, expected = moving.forward(images), fresh.forward(images)
        assert found.layers[0].shape[1] == size[0] * size[1] // patch**2
        for one, other in zip(
            [*found.layers, found.class_tokens], [*expected.layers, expected.class_tokens], strict=True
        ):
            assert torch.equal(one, other)
    with pytest.raises(SettingsError, match="multiple of the patch size"):
        moving.resize((patch, patch + 1))
    assert moving.info.image_size == sizes[1]


@pytest.mark.parametrize("name", TIMM_MODELS)
def test_every_size_is_resampled_from_the_weights(name, tmp_path):
    weights = saved(timm.create_model(name, pretrained=False), tmp_path / "weights.safetensors")
    check_resizing(f"timm:{name}", weights, describe_backbone(f"timm:{name}").patch_size)


@pytest.mark.slow
def test_relative_positions_are_resampled_from_the_weights(tmp_path):
    weights = saved(timm.create_model("beit_base_patch16_224", pretrained=False), tmp_path / "weights.safetensors")
    check_resizing("timm:beit_base_patch16_224", weights, 16)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "patch"), [("ViT-B-32/openai", 32), ("ViT-B-16-SigLIP/webli", 16)])
def test_every_size_of_open_clip_is_resampled_from_the_weights(name, patch, tmp_path):
    weights = saved(open_clip.create_model(name.partition("/")[0]), tmp_path / "weights.safetensors")
    check_resizing(f"open_clip:{name}", weights, patch)


def check_low_precision(name, image_size, weights):
    """Compare low precision with float32; the tokens between blocks stay in float32, so that errors do not add up."""
    images, exact = IMAGES[:, : image_size[0], : image_size[1]], None
    for precision in ("float32", "bfloat16", "float16"):
        backbone = load_backbone(name, image_size=image_size, layers=(1, 7), weights=weights, precision=precision)
        tokens = backbone.forward(images)
        found = [*tokens.layers, tokens.class_tokens]
        exact = exact or found
        assert [each.dtype for each in found] == [torch.float32] * 3
        bound = {"float32": 1e-6, "bfloat16": 0.012, "float16": 0.0015}[precision]
        for own, expected in zip(found, exact, strict=True):
            assert (own - expected).norm() < bound * expected.norm()


@pytest.mark.parametrize("name", TIMM_MODELS)
def test_low_precision_is_close_to_float32(name, tmp_path):
    model = timm.create_model(name, pretrained=False)
    weights = saved(model, tmp_path / "weights.safetensors")
    check_low_precision(f"timm:{name}", TIMM_MODELS[name][0], weights)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "image_size"), [("ViT-B-32/openai", (96, 160)), ("ViT-B-16-SigLIP/webli", (224, 224))]
)
def test_low_precision_of_open_clip_is_close_to_float32(name, image_size, tmp_path):
    model = open_clip.create_model(name.partition("/")[0])
    weights = saved(model, tmp_path / "weights.safetensors")
    check_low_precision(f"open_clip:{name}", image_size, weights)


def test_default_layers_are_the_ends_of_the_quarters():
    assert layers_at(QUARTERS, 24) == (5, 11, 17, 23)
    assert layers_at(QUARTERS, 12) == (2, 5, 8, 11)
    assert describe_backbone("clip-vit-l-14-336").layers == (5, 11, 17, 23)
    assert describe_backbone("clip-vit-l-14-336").grid == (37, 37)


@pytest.mark.parametrize("alias", ALIASES)
def test_every_alias_is_a_model_of_its_library(alias):
    info = describe_backbone(alias)
    assert info.name == ALIASES[alias]
    assert info.image_size[0] % info.patch_size == 0


@pytest.mark.parametrize(
    ("name", "size", "layers", "words"),
    [
        ("dinov2-vits-14", None, None, "dinov2-vit-s-14"),
        ("timm:vit_smal_patch14_dinov2", None, None, "vit_small_patch14_dinov2"),
        ("open_clip:ViT-L-14-366/openai", None, None, "ViT-L-14-336"),
        ("timm:resnet50", None, None, "not a plain vision transformer"),
        ("open_clip:RN50/openai", None, None, "no vision transformer"),
        ("dinov2-vit-s-14", (224, 225), None, "try 224 or 238"),
        ("dinov2-vit-s-14", (7, 14), None, "try 14"),
        ("dinov2-vit-s-14", None, (3, 12), "layers 0 to 11"),
    ],
)
def test_what_cannot_be_is_one_sentence_with_a_way_out(name, size, layers, words):
    with pytest.raises(SettingsError, match=words) as error:
        describe_backbone(name, size, layers)
    assert "\n" not in str(error.value)


def test_weights_as_pth_with_wrapper_and_prefix(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224")
    path = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, path)
    assert set(load_state_dict(path)) == set(model.state_dict())
    weights = fetch_weights(resolve_backbone("dinov2-vit-s-14"), str(path))
    load_backbone("timm:vit_tiny_patch16_224", image_size=(32, 32), layers=None, weights=weights)


def test_a_hostile_pickle_is_refused(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"state_dict": Hostile()}, protocol=2))
    with pytest.raises(MuscRayError, match=r"weights\.pth"):
        load_state_dict(path)
    torch.save({"state_dict": Hostile()}, path)
    with pytest.raises(MuscRayError, match="refused"):
        load_state_dict(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 broken zip"])
def test_files_that_are_no_weights_are_one_sentence(tmp_path, content):
    for name in ("w.safetensors", "w.pth"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MuscRayError, match=name) as error:
            load_state_dict(tmp_path / name)
        assert "\n" not in str(error.value)


def test_weights_that_do_not_fit_name_the_tensor(tmp_path):
    small = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    weights = saved(small, tmp_path / "w.safetensors")
    with pytest.raises(MuscRayError, match=r"blocks\.0\.attn\.proj\.bias.*\(192,\).*\(384,\)"):
        load_backbone("timm:vit_small_patch16_224", image_size=None, layers=None, weights=weights)
    state = small.state_dict()
    del state["norm.weight"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(MuscRayError, match=r"no tensor 'norm\.weight'"):
        load_backbone("timm:vit_tiny_patch16_224", image_size=None, layers=None, weights=weights)


@pytest.mark.parametrize("shortage", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_shortage_of_memory_is_no_fault_of_the_file(tmp_path, monkeypatch, shortage):
    def read(path):
        raise shortage

    monkeypatch.setattr(state_dict, "_read_tensors", read)
    with pytest.raises(type(shortage)):
        load_state_dict(tmp_path / "w.safetensors")
