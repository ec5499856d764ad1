"""What is known of the models of the aliases, against what their libraries say; it needs no library."""

import subprocess
import sys
from importlib import import_module

import pytest

from musc_ray.backbones import BackboneInfo, describe_backbone
from musc_ray.backbones.hub import _hub_file
from musc_ray.backbones.known import KNOWN
from musc_ray.backbones.load import build_model
from musc_ray.backbones.names import ALIASES, model_module, resolve_backbone


def test_every_alias_is_known_and_nothing_else_is():
    assert KNOWN.keys() == set(ALIASES.values())


@pytest.mark.parametrize("name", KNOWN)
def test_the_library_says_the_same(name):
    resolved = resolve_backbone(name)
    model, known = build_model(resolved, meta=True), KNOWN[name]
    for what in ("patch_size", "depth", "channels", "class_channels"):
        assert getattr(known, what) == getattr(model, what), what
    assert known.hub_file == _hub_file(resolved)
    assert describe_backbone(name) == BackboneInfo.of(name, model, None, None)


def test_shapes_and_refusals_of_aliases_import_no_library():
    code = (
        "import sys\n"
        "from musc_ray.backbones import describe_backbone\n"
        "from musc_ray.errors import SettingsError\n"
        "assert describe_backbone('clip-vit-l-14-336').class_channels == 768\n"
        "assert describe_backbone('timm:vit_small_patch14_dinov2.lvd142m', (224, 224)).grid == (16, 16)\n"
        "for name, size in (('dinov2-vit-s-14', (224, 225)), ('dinov2-vits-14', None), ('resnet50', None)):\n"
        "    try:\n"
        "        describe_backbone(name, size)\n"
        "    except SettingsError as error:\n"
        "        assert 'try' in str(error) or 'did you mean' in str(error)\n"
        "    else:\n"
        "        sys.exit(f'{name} {size} is not refused')\n"
        "sys.exit(', '.join({'torch', 'timm', 'open_clip', 'huggingface_hub'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.strip() == ""


@pytest.mark.parametrize("name", ["clip-vit-b-16", "dinov2-vit-s-14", "timm:vit_tiny_patch16_224", "open_clip:a/b"])
def test_the_module_of_a_library_is_found_by_name(name):
    module = model_module(name)
    assert import_module(module).__name__ == module
    assert ("open_clip" in module) == resolve_backbone(name).canonical.startswith("open_clip")
