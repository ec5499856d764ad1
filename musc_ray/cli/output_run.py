"""Output of the verbs that score: the worst images, thresholds, counts, and where scores and report lie."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Column, Table

from musc_ray.cli.output import bytes_text, escape, plural, print_total_time, stdout_console
from musc_ray.cli.output_ledger import print_ledger
from musc_ray.errors import MuscRayError

if TYPE_CHECKING:
    from musc_ray.scoring.result import RunResult
    from musc_ray.scoring.thresholds import GroupThreshold
    from musc_ray.storage.manifest import RunManifest

MAX_GROUPS = 10
"""Groups whose thresholds and drift are printed."""

RESCORINGS = {"rscin": "RsCIN", "rscon": "RsCon"}
"""What rescorings are called."""

MIN_PEAK_WIDTH = 100
"""Columns of a terminal that has room for where the worst images are most anomalous."""

MAX_SIZES = 3
"""Image sizes that are printed one by one."""


def finish_run(result: "RunResult") -> None:
    """Print a run's result, and fail if some of its groups did.

    Raises:
        MuscRayError: says of each failed group why.
    """
    _print_result(result, stdout_console())
    print_total_time()
    fail_with_groups(result)


def finish_night(result: "RunResult | None", waiting: Mapping[str, int]) -> None:
    """Print what a nightly run found, how far it drifts, and which new images wait; fail if some groups did.

    Args:
        result: None where no image was new.
        waiting: new images by group that wait for more of their kind.

    Raises:
        MuscRayError: says of each failed group why.
    """
    console = stdout_console()
    for group, images in waiting.items():
        console.print(escape(f"Group '{group}': {images} new image waits for more of its kind."), soft_wrap=True)
    if result is None:
        console.print("No new images to score.")
        print_total_time()
        return
    for name, night in list((result.run.night or {}).items())[:MAX_GROUPS]:
        drift = "" if night.drift is None else f", drift {night.drift:+.2f}"
        outside = "" if night.outside is None else f", {100 * night.outside:.2g} % of their energy outside the basis"
        console.print(
            escape(f"Group {name}: {night.new:,} new images against {night.window:,} earlier ones{drift}{outside}"),
            soft_wrap=True,
        )
    _print_result(result, console)
    print_total_time()
    fail_with_groups(result)


def finish_judged(results: Sequence["RunResult"]) -> None:
    """Print what was scored again for its verdicts; fail if some of its groups did.

    Raises:
        MuscRayError: says of each failed group why.
    """
    console = stdout_console()
    if not results:
        console.print("No verdict has changed since its group was scored last: nothing to score.")
    for result in results:
        _print_result(result, console)
    print_total_time()
    for result in results:
        fail_with_groups(result)


def fail_with_groups(result: "RunResult") -> None:
    """End a command whose run is written except for some groups.

    Raises:
        MuscRayError: says of each failed group why.
    """
    if result.run.failed_groups:
        raise MuscRayError(" ".join(result.run.failed_groups.values()))


def print_extracted(figures: Mapping[str, Any]) -> None:
    """Print what an extraction did."""
    stdout_console().print(
        f"{figures['images']:,} images extracted, {figures['already_done']:,} already done, "
        f"{figures['failed']:,} failed, {figures['skipped']:,} skipped"
    )
    for note in figures["notes"]:
        stdout_console().print(f"Note: {escape(note)}", soft_wrap=True)
    print_total_time()


def _print_result(result: "RunResult", console: Console) -> None:
    run = result.run
    if not result.computed:
        console.print(f"Run {run.run_id} is already complete: nothing to compute (--overwrite computes it again).")
    _print_worst(result.worst, console)
    for name, value in run.metrics.items():
        console.print(f"{escape(name)}: [bold]{value:.4f}[/bold]")
    console.print(method_line(run), soft_wrap=True, highlight=False)
    if run.settings.matching != "anywhere":
        console.print(matching_line(run), soft_wrap=True, highlight=False)
    _print_thresholds(result.thresholds, console)
    console.print(image_size_line(run), soft_wrap=True)
    if run.crops:
        console.print(crops_line(run), soft_wrap=True)
    if run.compression:
        console.print(features_line(run), soft_wrap=True)
    print_ledger(run, console)
    for note in run.notes:
        console.print(f"Note: {escape(note)}", soft_wrap=True)
    console.print(f"Scores: {escape(result.scores_path)}", soft_wrap=True)
    console.print(f"Report: {escape(result.report_path)}", soft_wrap=True)


def method_line(run: "RunManifest") -> str:
    """Say in one line which method scored a run, and with which constants."""
    settings = run.settings
    layers, degrees = (",".join(map(str, values)) for values in (run.resolved.layers, settings.degrees))
    low, high = settings.interval
    name, k_list = RESCORINGS.get(settings.rescoring), ",".join(map(str, settings.k_list))
    rescoring = "none (score is score_raw)" if name is None else f"{name} (k_list {k_list})"
    return (
        f"Method: {settings.method}, layers {layers}, degrees {degrees}, interval {low:g},{high:g}, "
        f"rescoring {rescoring}"
    )


def matching_line(run: "RunManifest") -> str:
    """Say in one line where patches looked for their nearest; the notes say why."""
    if run.settings.matching == "near":
        return f"Matching: near, radius {run.settings.radius}"
    counts = Counter(chosen.radius for chosen in run.matching.values())
    said = [f"anywhere in {plural(counts.pop(None), 'group')}"] if None in counts else []
    said += [f"near, radius {radius}, in {plural(count, 'group')}" for radius, count in sorted(counts.items())]
    return f"Matching: {'; '.join(said)} (auto)"


def image_size_line(run: "RunManifest") -> str:
    """Say in one line at which image sizes a run's groups were scored."""
    groups = run.image_sizes or {"": run.resolved.image_size}
    sizes = sorted({run.image_size_of(name) for name in groups}, key=lambda size: size[0] / size[1])
    said = [f"{size[0]} x {size[1]} ({size[0] // run.patch} x {size[1] // run.patch} patches)" for size in sizes]
    line = ", ".join(said) if len(said) <= MAX_SIZES else f"from {said[0]} to {said[-1]}, {len(said)} sizes"
    if not run.image_sizes:
        return f"Image size: {line}"
    return f"Image size: {line}, the shape of {'the' if len(groups) == 1 else 'each'} group's images"


def crops_line(run: "RunManifest") -> str:
    """Say in one line into which crops the images of a run's groups are cut."""
    counts = Counter(run.crops.values())
    said = [
        f"{cut.rows} x {cut.columns} of {cut.image_size[0]} x {cut.image_size[1]}, overlap {cut.overlap:g} "
        f"(maps of {cut.grid[0]} x {cut.grid[1]})" + ("" if len(run.crops) == 1 else f", in {plural(count, 'group')}")
        for cut, count in counts.most_common(MAX_SIZES)
    ]
    said += [f"and {len(counts) - MAX_SIZES} more"] if len(counts) > MAX_SIZES else []
    return f"Crops: {'; '.join(said)}"


def features_line(run: "RunManifest") -> str:
    """Say in one line how the features of a run's groups are compressed, what that keeps, and what it saves."""
    groups = list(run.compression.values())
    channels = sorted({group.channels for group in groups})
    kept = f"{channels[0]}" if len(channels) == 1 else f"{channels[0]} to {channels[-1]}"
    outside = [group.left_outside for group in groups if group.left_outside is not None]
    energy = f", at least {100 * (1 - max(outside)):.1f} % of the energy" if len(outside) > 1 else ""
    energy = f", {100 * (1 - outside[0]):.1f} % of the energy" if len(outside) == 1 else energy
    scored = run.counts.groups - run.counts.failed_groups
    where = f" in {len(groups):,} of {scored:,} groups" if len(groups) < scored else ""
    stored, full = (bytes_text(sum(getattr(group, name) for group in groups)) for name in ("bytes", "full_bytes"))
    dtypes = ", ".join(sorted({group.dtype for group in groups}))
    return (
        f"Features: {kept} of {run.resolved.channels:,} channels{where}, {dtypes}{energy}, {stored} instead of {full}"
    )


def _print_worst(worst: Sequence[Mapping[str, Any]], console: Console) -> None:
    names = ["rank", "score", "raw", "percentile"]
    with_peaks = console.width >= MIN_PEAK_WIDTH and any(row["peak_x"] is not None for row in worst)
    names += ["peak x, y", "of"] if with_peaks else []
    right = [Column(name, justify="right", no_wrap=True) for name in names]
    table = Table(*right, Column("image", overflow="fold"), title=f"The {len(worst)} most anomalous images")
    many_groups = len({row["group"] for row in worst}) > 1
    for row in worst:
        name = row["uri"].rsplit("/", 1)[-1]
        table.add_row(
            str(row["rank"]),
            f"{row['score']:.4f}",
            f"{row['score_raw']:.4f}",
            f"{row['percentile']:.1f}",
            *(_peak_cells(row) if with_peaks else ()),
            escape(f"{row['group']}: {name}" if many_groups else name),
        )
    console.print(table)


def _peak_cells(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return the pixel where an image's patch map is largest, and the size of the image; empty where unknown."""
    if row["peak_x"] is None:
        return "", ""
    return f"{row['peak_x']}, {row['peak_y']}", f"{row['width']} x {row['height']}"


def _print_thresholds(thresholds: "Sequence[GroupThreshold]", console: Console) -> None:
    """Print how many images of each group are anomalous, or would be at the suggested threshold."""
    for found in thresholds[:MAX_GROUPS]:
        group = f"Group {found.group}: " if len(thresholds) > 1 else ""
        of_images = f"{found.anomalous:,} of {found.images:,} images"
        if not found.suggested:
            line = f"{of_images} are anomalous (score at least {found.threshold:.6g})"
        elif found.anomalous:
            line = f"threshold suggested {found.threshold:.4f}: {of_images} would be anomalous"
        else:
            line = f"no image stands out (threshold suggested {found.threshold:.4f})"
        console.print(escape(f"{group}{line}"), soft_wrap=True)
    if len(thresholds) > MAX_GROUPS:
        console.print(f"... and {len(thresholds) - MAX_GROUPS:,} more groups.")
