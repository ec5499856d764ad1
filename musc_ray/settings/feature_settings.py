"""Settings of a job up to its features: which images, and how they become what is stored and compared."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from musc_ray.settings.affects import affects
from musc_ray.settings.crops import CropRule, parse_crops
from musc_ray.settings.method import Constants, Method, constants_of
from musc_ray.settings.types import (
    Compress,
    Crops,
    FeatureDtype,
    Intensity,
    Layers,
    Natural,
    OptionalText,
    Size,
    Text,
)


class FeatureSettings(BaseModel):
    """The first fields of `Settings`."""

    # strict: true is not a number and 2.0 not a count; the fields' types turn command-line text into numbers first.
    # hide_input_in_errors: a refused value may be a secret.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, protected_namespaces=()
    )

    source: Annotated[OptionalText, affects("source")] = Field(
        default=None, description="Image folder, URI prefix, glob, tar file, or table of URIs."
    )
    out: Annotated[OptionalText, affects("output", "run")] = Field(
        default=None, description="Folder or URI prefix of features, scores and reports."
    )
    backbone: Annotated[Text, affects("features")] = Field(
        default="clip-vit-l-14-336", description="An alias, open_clip:MODEL/TAG or timm:MODEL."
    )
    weights: Annotated[OptionalText, affects("features")] = Field(
        default=None, description="Path or URI of a safetensors/pth/pt/bin file; default: the library's hub download."
    )
    method: Annotated[Method, affects("features", "scores", in_ids=False)] = Field(
        default="tuned",
        description="Layers, degrees, interval and rescoring that are not given: the best that is known for the "
        "backbone, and the shape of each group's images kept (tuned), or those of MuSc, images squeezed into a square "
        "(paper).",
    )
    image_size: Annotated[Size, affects("features")] = Field(
        default=None,
        description="Model input in pixels. One side: as many patches as a square of it, in the shape of each group's "
        "images (with method paper: the square); or height,width. Default: the backbone's own side.",
    )
    layers: Annotated[Layers, affects("features")] = Field(
        default=None, description="Blocks of the network, from 0, such as 5,11,17,23; default: by method and backbone."
    )
    intensity: Annotated[Intensity, affects("features", older="auto")] = Field(
        default="auto",
        description="Values shown black and white of images with more than 8 bits: the true depth of each group's data "
        "(auto), all that the format holds (full), the percentiles 0.1 and 99.9 (percentile), or LOW,HIGH.",
    )
    crops: Annotated[Crops, affects("features", older="none")] = Field(
        default="none",
        description="Overlapping parts that large images are cut into at full resolution, each as large for the model "
        "as the whole: none, ROWSxCOLUMNS such as 3x2, size=640 (pixels of the original, at most), scale=1.5 (pixels "
        "of the original a pixel of the model, at most), all with an overlap=0.2 if wanted, or auto: scale=2.",
    )
    compress: Annotated[Compress, affects("features", older="none")] = Field(
        default="none",
        description="Directions of a group's tokens that are stored: all (none), this many, or as many as hold nearly "
        "all of the energy, in groups large enough for it (auto).",
    )
    feature_dtype: Annotated[FeatureDtype, affects("features")] = Field(
        default="auto",
        description="Number format of stored features; auto: int8, with a scale for each patch, where they are "
        "compressed, float16 where not.",
    )
    refit: Annotated[Natural, affects("features", older=0)] = Field(
        default=0,
        description="Raise it to find the directions of compressed features anew, in the images listed now; all "
        "features are then extracted again.",
    )

    @property
    def constants(self) -> Constants:
        """Return what the method chooses for the backbone, whatever is given in its place."""
        return constants_of(self.method, self.backbone)

    @property
    def keeps_shape(self) -> bool:
        """Return whether each group has a model input of the shape of its images."""
        return self.method == "tuned" and not isinstance(self.image_size, tuple)

    @property
    def crop_rule(self) -> CropRule | None:
        """Return what `crops` says; None where images are not cut."""
        return parse_crops(self.crops)

    def stored_dtype(self, compressed: bool) -> str:
        """Return the number format of the features of a group that is compressed, or is not."""
        if self.feature_dtype == "auto":
            return "int8" if compressed else "float16"
        return self.feature_dtype
