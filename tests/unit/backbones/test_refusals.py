"""Backbones where a library would quietly compute something else than what was asked for."""

import subprocess
import sys
from pathlib import Path

import fsspec
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

from musc_ray.backbones import describe_backbone, load_backbone
from musc_ray.backbones.names import resolve_backbone
from musc_ray.backbones.open_clip_vit import resample_position
from musc_ray.backbones.state_dict import load_state_dict, published_digests
from musc_ray.backbones.weights import WeightsFile, fetch_weights
from musc_ray.errors import MuscRayError, SettingsError

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = "timm:vit_tiny_patch16_224"
DINOV2 = resolve_backbone("dinov2-vit-s-14")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> WeightsFile:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), path)
    return fetch_weights(DINOV2, str(path))


def image(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8, generator=generator)


def test_names_and_images_import_no_model_library():
    code = (
        "import sys, musc_ray.backbones.names as names, musc_ray.sources.decoding;"
        "names.resolve_backbone('dinov2-vit-s-14');"
        "sys.exit(', '.join({'torch', 'timm', 'open_clip', 'ray'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.strip() == ""


def test_layers_come_in_the_asked_order(tiny):
    def layers(*numbers):
        return load_backbone(TINY, image_size=(32, 48), layers=numbers, weights=tiny).forward(image(32, 48)).layers

    upwards, downwards = layers(1, 7), layers(7, 1)
    assert not torch.equal(upwards[0], upwards[1])
    assert torch.equal(upwards[0], downwards[1])
    assert torch.equal(upwards[1], downwards[0])


@pytest.mark.parametrize(
    "name",
    [
        "timm:vit_small_r26_s32_224",  # a ResNet before the blocks: patch size 1 of a grid 32 times smaller
        "timm:vit_base_mci_224",
        "timm:vitamin_small_224",
        "timm:xcit_nano_12_p16_224",
        "open_clip:ViTamin-S/datacomp1b",
        "open_clip:MobileCLIP-B/datacompdr",
    ],
)
def test_hybrids_are_refused(name):
    with pytest.raises(SettingsError, match="vision transformer"):
        describe_backbone(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:vit_small_patch14_dinov2.nonsense", "lvd142m"),
        ("open_clip:ViT-L-14-336/opena", "ViT-L-14-336: openai"),
        ("open_clip:ViT-B-32", "openai, laion400m"),  # the tags differ in activation and normalisation
        ("open_clip:ViT-S-32/openai", "none, leave it out"),
    ],
)
def test_a_tag_that_the_library_does_not_know_is_refused(name, words):
    with pytest.raises(SettingsError, match=words) as error:
        describe_backbone(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("vit_small_patch14_dinov2", "timm:vit_small_patch14_dinov2.lvd142m"),
        ("ViT-H-14/laion2b", "open_clip:ViT-H-14/laion2b_s32b_b79k"),
        ("DINOv2-ViT-S-14", "dinov2-vit-s-14"),
        ("", "clip-vit-l-14-336"),
    ],
)
def test_unknown_names_suggest_names_of_aliases_and_libraries(name, suggestion):
    with pytest.raises(SettingsError, match=suggestion) as error:
        resolve_backbone(name)
    for word in str(error.value).split("did you mean ")[1].split("?")[0].split(" or "):
        assert resolve_backbone(word).tag  # every suggestion is a whole name


def test_patches_of_another_size_do_not_fit(tmp_path):
    path = tmp_path / "patch16.safetensors"
    save_file(timm.create_model("vit_small_patch16_224").state_dict(), path)
    with pytest.raises(MuscRayError, match=r"patch_embed\.proj\.weight.*\(384, 3, 16, 16\).*\(384, 3, 8, 8\)"):
        load_backbone("timm:vit_small_patch8_224", image_size=(32, 32), layers=None, weights=WeightsFile(path, ""))


@pytest.mark.parametrize("prefix", ["backbone.", "module.backbone."])
def test_a_teacher_with_training_heads(prefix, tiny, tmp_path):
    own = load_state_dict(tiny.path)
    heads = {f"{prefix.removesuffix('backbone.')}head.mlp.0.weight": torch.zeros(2, 2)}
    path = tmp_path / "checkpoint.pth"
    torch.save({"student": heads, "teacher": {f"{prefix}{key}": own[key] for key in own} | heads, "epoch": 9}, path)
    state = load_state_dict(path)
    assert state.keys() == own.keys()
    assert all(torch.equal(state[key], own[key]) for key in own)


@pytest.mark.parametrize("grid", [(3, 5), (14, 14), (10, 2)])
def test_positions_are_resampled_as_open_clip_does(grid):
    position = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Module()
    model.visual = torch.nn.Module()
    model.visual.grid_size = grid
    state = {"visual.positional_embedding": position}
    open_clip.model.resize_pos_embed(state, model)
    torch.testing.assert_close(resample_position(position, (7, 7), grid), state["visual.positional_embedding"])


def test_another_grid_of_as_many_patches_is_resampled_too():
    rows = torch.arange(4.0).repeat_interleave(4)  # 4 x 4, each row its number
    position = torch.cat([torch.tensor([-1.0]), rows])[:, None]
    wide = resample_position(position, (4, 4), (2, 8))
    assert wide[0] == -1
    upper, lower = wide[1:9], wide[9:]
    assert upper.max() < 1
    assert lower.min() > 2
    assert resample_position(position, (4, 4), (4, 4)) is position


@pytest.mark.filterwarnings("ignore")  # tracing warns of its own deprecation and of open_clip's shape checks
def test_openais_torchscript_archives(tmp_path, monkeypatch):
    """OpenAI's files are scripted CLIPs in half precision, with sizes beside the weights; others are refused."""

    class Clip(torch.nn.Module):
        def __init__(self, visual):
            super().__init__()
            self.visual = visual
            self.register_buffer("input_resolution", torch.tensor(224))

        def forward(self, images):
            return self.visual(images)

    torch.manual_seed(0)
    visual = open_clip.create_model("ViT-S-32").visual.eval()
    path = tmp_path / "ViT-S-32.pt"
    torch.jit.trace(Clip(visual), torch.zeros(1, 3, 224, 224), check_trace=False).half().save(str(path))
    weights = fetch_weights(DINOV2, str(path))
    assert len(published_digests()) >= 9
    with pytest.raises(MuscRayError, match="TorchScript archive, which holds code"):
        load_state_dict(path)
    monkeypatch.setattr("musc_ray.backbones.state_dict.published_digests", lambda: {weights.sha256})
    backbone = load_backbone("open_clip:ViT-S-32", image_size=(224, 224), layers=(3,), weights=weights)
    pixels = image(224, 224)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (backbone._model.mean, backbone._model.std))
    with torch.no_grad():
        expected = visual.half().float()((pixels.permute(0, 3, 1, 2) / 255 - mean) / std)
    torch.testing.assert_close(backbone.forward(pixels).class_tokens, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tokens", ["ETag", "etag", "LastModified"])
def test_retrained_weights_of_the_same_size_are_fetched_again(tokens, tmp_path, monkeypatch):
    """Stores name a file's version differently; retraining changes the bytes and not their number."""
    memory = fsspec.filesystem("memory")
    content = {"version": "1"}

    def info(path, **_):
        return {"name": path, "size": 5, "type": "file", tokens: content["version"]}

    monkeypatch.setattr(type(memory), "info", lambda _self, path, **options: info(path, **options))
    try:
        for content["version"], data in (("1", b"first"), ("2", b"again")):
            memory.pipe_file("/bucket/w.safetensors", data)
            assert fetch_weights(DINOV2, "memory://bucket/w.safetensors", tmp_path).path.read_bytes() == data
    finally:
        memory.store.clear()


@pytest.mark.parametrize("step", ["info", "get_file"])
def test_whatever_a_store_raises_is_one_sentence(step, tmp_path, monkeypatch):
    class NoCredentialsError(Exception):  # as botocore's: no OSError
        pass

    def refuse(*_, **__):
        raise NoCredentialsError("Unable to locate\ncredentials.")

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/bucket/w.safetensors", b"data")
    monkeypatch.setattr(type(memory), step, refuse)
    try:
        with pytest.raises(MuscRayError, match=r"w\.safetensors: Unable to locate credentials; check --weights\.$"):
            fetch_weights(DINOV2, "memory://bucket/w.safetensors", tmp_path)
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    finally:
        memory.store.clear()


def test_weights_that_may_not_be_read_are_one_sentence(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"data")

    def refuse(_self, *_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything, so chmod would not show it
    with pytest.raises(MuscRayError, match="Permission denied; check --weights"):
        fetch_weights(DINOV2, str(path))


@pytest.mark.parametrize(
    ("model", "of_file", "said"),
    [
        (
            "timm:vit_small_patch14_reg4_dinov2.lvd142m",
            "vit_small_patch14_dinov2",
            "the file has no register tokens, the model has register tokens",
        ),
        (
            "timm:vit_small_patch14_dinov2.lvd142m",
            "vit_small_patch14_reg4_dinov2",
            "the file has register tokens, the model has no register tokens",
        ),
        ("timm:vit_small_patch14_dinov2.lvd142m", "vit_tiny_patch16_224", "does not fit"),
        ("timm:vit_small_patch16_dinov3.lvd1689m", "vit_small_patch14_dinov2", "does not fit"),
        ("open_clip:ViT-B-32/openai", "vit_tiny_patch16_224", "does not fit"),
    ],
)
def test_weights_of_another_model_are_named_with_the_model(tmp_path, model, of_file, said):
    """It was: shape '[1, 37, 37, -1]' is invalid for input of size 525312."""
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model(of_file, num_classes=0).state_dict(), path)
    weights = fetch_weights(resolve_backbone(model), str(path))
    with pytest.raises(MuscRayError) as error:
        load_backbone(model, image_size=None, layers=None, weights=weights)
    text = str(error.value)
    assert said in text
    assert str(path) in text
    assert resolve_backbone(model).canonical in text
    assert "\n" not in text
