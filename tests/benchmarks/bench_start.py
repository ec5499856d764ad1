"""How long a person waits: whole commands, beside a bare script that does the same work with torch and timm alone.

    python tests/benchmarks/bench_start.py [--before CHECKOUT] [--rounds 3] [PART ...]

PART: verbs, refusals, small, after, demo; all by default. With --before the demo, and 40 images, are also run with the
code of another checkout, such as `git worktree add ../before COMMIT`, in turn with this one's. Each figure is the
minimum over the rounds, after one command that is not counted; the limits are those that this project sets itself.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from memory import PeakMemory

ROOT = Path(__file__).parents[2]
PARTS = ("verbs", "refusals", "small", "after", "demo", "executors")
SMALL, SMALL_SIZE = 40, 112

BARE = """
import csv, sys
import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

source, weights, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
paths = [row["uri"].removeprefix("file://") for row in csv.DictReader(open(source))]
model = timm.create_model("vit_small_patch14_dinov2", img_size=518, num_classes=0)
model.load_state_dict(load_file(weights))
model.set_input_size(img_size=size)
model.eval()
mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
tokens, classes = [], []
with torch.inference_mode():
    for start in range(0, len(paths), 8):
        opened = [Image.open(path).convert("RGB") for path in paths[start:start + 8]]
        pictures = [picture.resize((size, size), Image.BICUBIC) for picture in opened]
        pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2) / 255
        normal, chosen = (pixels - mean) / std, [2, 5, 8, 11]
        final, layers = model.forward_intermediates(normal, indices=chosen, norm=True, output_fmt="NLC")
        tokens.append(torch.stack(layers))
        classes.append(final[:, 0])
    layers = torch.cat(tokens, dim=1)
    side, count = size // 14, len(paths)
    total = torch.zeros(count, side * side)
    for layer in layers:
        normal = torch.nn.functional.layer_norm(layer, layer.shape[1:])
        grid = normal.transpose(1, 2).reshape(count, -1, side, side)
        for degree in (1, 3, 5):
            pooled = torch.nn.functional.avg_pool2d(grid, degree, 1, degree // 2).flatten(2).transpose(1, 2)
            unit = torch.nn.functional.normalize(pooled, dim=-1)
            for image in range(count):
                nearest = torch.cdist(unit[image], unit).amin(dim=2)
                others = torch.cat([nearest[:image], nearest[image + 1:]]).sort(dim=0).values
                total[image] += others[: max(1, int(0.3 * (count - 1)))].mean(dim=0)
    raw = (total / 12).amax(dim=1)
    scores = (raw - raw.min()) / (raw.max() - raw.min())
    unit = torch.nn.functional.normalize(torch.cat(classes), dim=-1)
    weighted = []
    for k in (1, 2, 3):
        similar = (unit @ unit.T).topk(k, dim=1)
        shares = similar.values / similar.values.sum(dim=1, keepdim=True)
        weighted.append((shares * scores[similar.indices]).sum(dim=1))
    scores = torch.stack(weighted).mean(dim=0)
print(paths[int(scores.argmax())])
"""

IMPORTS = "import torch, timm"


@dataclass
class Timing:
    """Seconds of the rounds of a command, and the largest memory of all its processes in bytes."""

    seconds: list[float] = field(default_factory=list)
    peak: int = 0

    @property
    def best(self) -> float:
        """The least disturbed round."""
        return min(self.seconds)


def timed(
    command: Sequence[str], checkout: Path = ROOT, code: int | None = 0, memory: bool = False
) -> tuple[float, int]:
    """Seconds and, if asked for, peak memory of a command that runs the code of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    watch = PeakMemory()
    if memory:
        watch.__enter__()
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, cwd=checkout, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if memory:
        watch.__exit__(None, None, None)
    if code is not None and done.returncode != code:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return seconds, watch.total


def verb(*arguments: object) -> list[str]:
    """The command line of a verb."""
    return [sys.executable, "-m", "musc_ray.cli", *map(str, arguments)]


def in_turn(commands: dict[str, Callable[[], tuple[float, int]]], rounds: int) -> dict[str, Timing]:
    """Run commands in turn, once without counting, so that what disturbs the machine disturbs all of them."""
    timings = {name: Timing() for name in commands}
    for number in range(rounds + 1):
        for name, run in commands.items():
            seconds, peak = run()
            if number:
                timings[name].seconds.append(seconds)
                timings[name].peak = max(timings[name].peak, peak)
    return timings


def show(name: str, seconds: float, limit: float | None = None) -> None:
    """Print a figure and, where there is one, its limit."""
    verdict = "" if limit is None else f"   limit {limit:6.2f}   {'ok' if seconds <= limit else 'TOO LONG'}"
    print(f"  {name:58} {seconds:7.2f} s{verdict}", flush=True)


class Bench:
    """What the parts share: a folder with weights, lists of images, and an OUT with a complete run."""

    def __init__(self, folder: Path, before: Path | None, rounds: int) -> None:
        from musc_ray.demo.dinov2_onnx import write_dinov2_weights
        from musc_ray.demo.elpv import mono_cells

        self.folder, self.before, self.rounds = folder, before, rounds
        self.weights = write_dinov2_weights(folder / "dinov2_vit_s_14.safetensors")
        self.source = folder / "images.csv"
        cells = mono_cells(240)[:SMALL]
        self.source.write_text("\n".join(["uri", *(cell.path.as_uri() for cell in cells)]) + "\n")
        self.options = ["--backbone", "dinov2-vit-s-14", "--weights", self.weights, "--image-size", SMALL_SIZE]
        self.out = folder / "out"

    def small(self, out: Path, *more: object, checkout: Path = ROOT, memory: bool = False) -> tuple[float, int]:
        """Score the images into a new OUT."""
        shutil.rmtree(out, ignore_errors=True)
        return timed(verb("run", self.source, out, *self.options, *more), checkout, memory=memory)

    def complete_out(self) -> Path:
        """The OUT with a complete run."""
        if not self.out.exists():
            self.small(self.out)
        return self.out

    def bare_imports(self) -> float:
        """Seconds to import torch and timm."""
        return in_turn({"": lambda: timed([sys.executable, "-c", IMPORTS])}, self.rounds)[""].best


def verbs(bench: Bench) -> None:
    """Verbs that need no job."""
    out = bench.complete_out()
    commands = {"--help": 0.5, "--version": 0.5, f"status {out}": 2.0, f"runs {out}": 2.0, f"gc {out}": 2.0}
    timings = in_turn({text: lambda text=text: timed(verb(*text.split())) for text in commands}, bench.rounds)
    for text, limit in commands.items():
        show(f"musc-ray {text.split()[0]}", timings[text].best, limit)


def refusals(bench: Bench) -> None:
    """What cannot be done is said at once."""
    folder, ok = bench.folder, ["--backbone", "dinov2-vit-s-14", "--weights", str(bench.weights)]
    (folder / "empty").mkdir(exist_ok=True)
    source, out = str(bench.source), str(folder / "refused")
    file = str(bench.weights)
    cases = {
        "run": (["run"], 2),
        "run, a source that is missing": (["run", "/nowhere", out, *ok], 1),
        "run, an empty source": (["run", str(folder / "empty"), out, *ok], 1),
        "run, an unknown backbone": (["run", source, out, "--backbone", "dinov2-vit-s-15"], 2),
        "run, an image size that does not fit": (["run", source, out, *ok, "--image-size", "100"], 2),
        "run, a layer that is missing": (["run", source, out, *ok, "--layers", "12"], 2),
        "run, weights that are missing": (["run", source, out, *ok[:2], "--weights", "/nowhere.pth"], 1),
        "run, an OUT that is a file": (["run", source, file, *ok], 1),
        "run, an unknown setting": (["run", source, out, "--set", "imagesize=3"], 2),
        "plan, a source that is missing": (["plan", "/nowhere"], 1),
        **{
            f"{name}, an OUT that is missing": ([name, "/nowhere"], 1)
            for name in ("status", "runs", "report", "evaluate")
        },
        "heatmaps, an OUT that is missing": (["heatmaps", "/nowhere", "--format", "png"], 1),
        "gc, an OUT that is missing": (["gc", "/nowhere"], 1),
        "rescore, an OUT that is missing": (["rescore", "/nowhere"], 1),
    }
    timings = in_turn(
        {name: lambda case=case: timed(verb(*case[0]), code=case[1]) for name, case in cases.items()}, bench.rounds
    )
    for name in cases:
        show(name, timings[name].best, 1.0)


def small(bench: Bench) -> None:
    """40 images, against a bare script that does the same."""
    bare = [sys.executable, "-c", BARE, str(bench.source), str(bench.weights), str(SMALL_SIZE)]
    out = bench.folder / "small"
    commands: dict[str, Callable[[], tuple[float, int]]] = {
        "bare": lambda: timed(bare),
        "process": lambda: bench.small(out),
        "ray": lambda: bench.small(out, "--executor", "ray"),
    }
    before = bench.before
    if before is not None:
        commands["before"] = lambda: bench.small(out, checkout=before)
    timings = in_turn(commands, bench.rounds)
    script = timings["bare"].best
    show("a bare script", script)
    show("run", timings["process"].best, 1.3 * script + 2)
    show("run --executor ray", timings["ray"].best, 2 * script + 3)
    if before is not None:
        show("run, before", timings["before"].best)


def after(bench: Bench) -> None:
    """What is asked of a complete run."""
    out, imports = bench.complete_out(), bench.bare_imports()
    again = ["run", bench.source, out, *bench.options]
    maps = bench.folder / "maps"

    def heatmaps() -> tuple[float, int]:
        shutil.rmtree(maps, ignore_errors=True)
        return timed(verb("heatmaps", out, "--format", "png", "--top", 5, "--to", maps))

    thresholds = iter(number / 1000 for number in range(1, 1000))
    commands: dict[str, tuple[Callable[[], tuple[float, int]], float]] = {
        "run, complete already": (lambda: timed(verb(*again)), 2.0),
        "run, another threshold": (lambda: timed(verb(*again, "--threshold", next(thresholds))), 2.0),
        "heatmaps of 5 images": (heatmaps, imports + 3),
        "report of 40 images": (lambda: timed(verb("report", out)), imports + 3),
    }
    show("importing torch and timm", imports)
    timings = in_turn({name: run for name, (run, _) in commands.items()}, bench.rounds)
    for name, (_, limit) in commands.items():
        show(name, timings[name].best, limit)


def demo(bench: Bench) -> None:
    """The demo: whole time, memory of all processes, rate of extraction; against another checkout if one is given."""
    checkouts = {"now": ROOT} | ({"before": bench.before} if bench.before is not None else {})
    rates: dict[str, list[float]] = {name: [] for name in checkouts}

    def run(name: str, checkout: Path) -> tuple[float, int]:
        out = bench.folder / "demo"
        shutil.rmtree(out, ignore_errors=True)
        result = timed(verb("demo", out, "--quiet"), checkout, memory=True)
        (manifest,) = out.glob("runs/*/run.json")
        stage = json.loads(manifest.read_text())["stages"]["extract"]
        rates[name].append(stage["images"] / stage["seconds_in_model"] if name == "now" else model_rate(stage))
        return result

    timings = in_turn({name: lambda name=name, at=at: run(name, at) for name, at in checkouts.items()}, bench.rounds)
    for name, timing in timings.items():
        show(f"demo, {name}", timing.best)
        print(f"  {'':58} {timing.peak / 1e9:7.2f} GB, model {max(rates[name][1:]):.1f} images/s")
    if bench.before is not None:
        now, then = timings["now"], timings["before"]
        print(f"  time {now.best / then.best:.0%}, memory {now.peak / then.peak:.0%} of before")


def executors(bench: Bench) -> None:
    """Both executors on the demo, and on all its 901 solar cells: a job of this machine's size."""
    for images in ("240", "all"):
        stages: dict[str, dict] = {}

        def run(name: str, images: str = images, stages: dict[str, dict] = stages) -> tuple[float, int]:
            out = bench.folder / "executors"
            shutil.rmtree(out, ignore_errors=True)
            result = timed(verb("demo", out, "--quiet", "--images", images, "--executor", name), memory=True)
            (manifest,) = out.glob("runs/*/run.json")
            stages[name] = json.loads(manifest.read_text())["stages"]
            return result

        names = ("process", "ray")
        timings = in_turn({name: lambda name=name: run(name) for name in names}, bench.rounds if images == "240" else 1)
        for name in names:
            seconds = ", ".join(
                f"{stage} {stages[name][stage]['seconds']:.1f}" for stage in ("extract", "mutual", "report")
            )
            show(f"demo --images {images} --executor {name}", timings[name].best)
            print(f"  {'':58} {timings[name].peak / 1e9:7.2f} GB; {seconds} s", flush=True)


def model_rate(stage: dict) -> float:
    """Images a second of two workers that compute at the same time, each on one thread."""
    return 2 * float(stage["images"]) / float(stage["seconds_in_model"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=(*PARTS, []), help="default: all")
    parser.add_argument("--before", type=Path, help="another checkout of this project")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    before = None if given.before is None else given.before.resolve()
    known = {"verbs": verbs, "refusals": refusals, "small": small, "after": after, "demo": demo, "executors": executors}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), before, given.rounds)
        for part in given.parts or PARTS:
            print(known[part].__doc__, flush=True)
            known[part](bench)
    from machine import describe_machine  # only now: it imports torch

    print(describe_machine())


if __name__ == "__main__":
    main()
