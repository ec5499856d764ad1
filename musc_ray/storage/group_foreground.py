"""What `foreground: auto` found of a group, and which patches a run kept: as stored, and as run.json has it."""

from musc_ray.storage.manifest_records import Decision, Record


class ForegroundDirection(Record):
    """How a part is told from its background: `core.foreground.Foreground`, of a layer."""

    layer: int
    mean: tuple[float, ...]
    direction: tuple[float, ...]
    threshold: float
    usual: tuple[bool, ...]
    share: float


class GroupForeground(Decision):
    """What a sample says of a group.

    Attributes:
        found: how the part is told from the background; None where all patches are kept.
        separation, border, centre, unclear, share: see `core.foreground.ForegroundFigures`.
    """

    found: ForegroundDirection | None = None
    separation: float | None = None
    border: float | None = None
    centre: float | None = None
    unclear: float | None = None
    share: float | None = None

    @property
    def decided(self) -> object:
        """How the part is told from the background."""
        return self.found


class GroupKept(Record):
    """Which patches of a group were scored and compared with.

    Attributes:
        share: of all patches of the images and their crops.
        masked: whether masks were for the group.
        foreground: whether patches of the background were left out; None where it was not asked for.
        reason: why, of `foreground`.
        unmasked: images that no mask is for.
        stretched: images whose aspect ratio is not that of their mask.
        lost: images in which no part was found: all their patches are kept.
    """

    share: float
    masked: bool = False
    foreground: bool | None = None
    reason: str | None = None
    unmasked: int = 0
    stretched: int = 0
    lost: int = 0
