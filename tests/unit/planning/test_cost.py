"""The cost model against direct counts, and the sentences of a plan."""

import dataclasses
import os
import re
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from musc_ray.backbones import BackboneInfo
from musc_ray.cli.output_plan import compress_proposal, crops_proposal, crops_text, plan_document
from musc_ray.core.distance_summary import DistanceSummary
from musc_ray.core.pending_distances import (
    MAX_EXACT_REFERENCES,
    SUMMARY_BYTES,
    SUMMARY_CHUNK,
    pending_bytes_per_patch,
)
from musc_ray.core.references import reference_window, section_pairs
from musc_ray.errors import SettingsError
from musc_ray.features.arithmetic import Arithmetic
from musc_ray.planning import plan as planning
from musc_ray.planning.calibration import assumed_rates
from musc_ray.planning.cost import (
    KERNEL_SECONDS,
    START_SECONDS,
    forward_operations,
    pending_bytes,
    plan_job,
    with_cheaper,
)
from musc_ray.planning.formats import GroupFormat, group_formats
from musc_ray.planning.job import Job, Rates
from musc_ray.planning.plan import Machine, list_archive, plan_archive
from musc_ray.runtime import executor
from musc_ray.scoring.ring import GroupImages, tiles_of
from musc_ray.settings.loading import load_settings
from musc_ray.storage.bases import Compression
from tests.helpers.pictures import write_pictures

INFO = BackboneInfo("timm:test", (64, 96), 16, (4, 6), 12, (2, 5, 8, 11), 192, 192)
RATES = Rates(1e12, 2e12, 1e11, 0.01, 1e5, "made up")


def job(sizes: list[int], references: int | None = None, **given: object) -> Job:
    dtype, compressed, channels = given.pop("stored", ("float16", False, 192))
    crops = given.pop("crops", 0)
    precision = given.pop("precision", "bfloat16")
    made = Job(
        groups=[GroupFormat(size, channels, dtype, compressed, precision, crops=crops) for size in sizes],
        info=INFO,
        vectors=3,
        references=references,
        seed=0,
        shard_size=16,
        batch_size=8,
        on_gpu=False,
        side=2,
        cache_bytes=2**30,
        executor="ray",
        workers=2,
        threads=1,
    )
    return dataclasses.replace(made, **given)


@given(sizes=st.lists(st.integers(2, 200), min_size=1, max_size=3), references=st.one_of(st.none(), st.integers(1, 80)))
@hypothesis_settings(max_examples=50, deadline=None)
def test_counts_are_those_of_the_stages(sizes, references):
    plan = plan_job(job(sizes, references), RATES)
    tiles = pairs = 0
    for size in sizes:
        shards = {n: [f"{n}-{i}" for i in range(min(16, size - 16 * n))] for n in range(-(-size // 16))}
        images = GroupImages.of("g", shards, (4, 4), references)
        tiles += sum(1 for _ in tiles_of(images.ring, images.ring, images.window))
        pairs += int(images.window.contains(range(size), range(size)).sum()) // 2
    assert plan.images == sum(sizes)
    assert plan.pairs == pairs
    # a ring that is cut in another place has a few tiles more or fewer
    assert plan.tiles == pytest.approx(4 * tiles, rel=0.2, abs=4 * 4 * len(sizes))
    if references is None:  # the diagonal tile of a shard of one image holds no pair
        assert 4 * tiles <= plan.tiles <= 4 * (tiles + len(sizes))
    assert plan.mutual_operations == pairs * 2 * 24**2 * 192 * 4


@given(images=st.integers(2, 80), references=st.one_of(st.none(), st.integers(1, 80)), seed=st.integers(0, 30))
@hypothesis_settings(max_examples=200, deadline=None)
def test_no_more_distances_wait_than_stated(images, references, seed):
    """Work through the blocks of single images in order and count what waits."""
    window = reference_window(images, references, seed)
    awaited = dict.fromkeys(range(images), window.references)
    met = dict.fromkeys(range(images), 0)
    most = 0
    for i, j in section_pairs(window, [range(p, p + 1) for p in range(images)]):
        for p in {i, j}:
            met[p] += 1
            awaited[p] -= 1
            if awaited[p] == 0:
                met[p] = 0
        most = max(most, sum(met.values()))
    assert most <= window.max_pending
    if seed == 0 and images > 8:  # windows far away wait less than stated in small groups
        assert window.max_pending <= 2 * most


def test_summaries_bound_what_waits_of_very_many_references():
    few, many = reference_window(MAX_EXACT_REFERENCES, None), reference_window(200_000, None)
    assert pending_bytes_per_patch(few, 2) == few.max_pending * 2
    assert pending_bytes_per_patch(many, 2) == 200_000 * (SUMMARY_BYTES + 2 * SUMMARY_CHUNK)
    summary = DistanceSummary.of(torch.zeros(1, 10))
    assert summary.counts.nbytes + summary.excesses.nbytes == SUMMARY_BYTES
    assert pending_bytes(few, 24, 3, 2) == few.max_pending * 2 * 24 * 3


def test_time_follows_work_and_workers():
    one, two = (plan_job(job([2000], workers=workers), RATES) for workers in (1, 2))
    assert one.mutual_seconds - KERNEL_SECONDS == pytest.approx(2 * (two.mutual_seconds - KERNEL_SECONDS))
    assert one.extract_seconds - START_SECONDS["ray"] == pytest.approx(2000 * (forward_operations(INFO) / 1e12 + 0.01))
    assert plan_job(job([4000], 64), RATES).pairs == 2 * plan_job(job([2000], 64), RATES).pairs
    assert plan_job(job([4000]), RATES).pairs > 3.9 * one.pairs


def test_a_process_starts_sooner_and_decodes_on_its_threads():
    ray, process = (plan_job(job([2000], executor=name, workers=1), RATES) for name in ("ray", "process"))
    assert ray.extract_seconds - process.extract_seconds == START_SECONDS["ray"] - START_SECONDS["process"] > 0
    assert ray.mutual_seconds == process.mutual_seconds
    threads = plan_job(job([2000], executor="process", workers=1, threads=4), RATES)
    assert process.extract_seconds - threads.extract_seconds == pytest.approx(2000 * 0.01 * 3 / 4)


@pytest.mark.parametrize(
    ("cpus", "gpus", "device", "settings", "expected"),
    [
        (2, 0, "cpu", {}, Machine("process", 1, 2)),
        (2, 0, "cpu", {"threads": 1}, Machine("process", 1, 1)),
        (2, 0, "cpu", {"executor": "ray"}, Machine("ray", 2, 1)),
        (2, 0, "cpu", {"workers": 6}, Machine("ray", 6, 1)),
        (64, 0, "cpu", {}, Machine("ray", 64, 1)),
        (64, 0, "cpu", {"threads": 4}, Machine("ray", 16, 4)),
        (16, 1, "cuda", {}, Machine("process", 1, 16)),
        (16, 4, "cuda", {}, Machine("ray", 4, 4)),
        (16, 4, "cuda", {"workers": 32, "address": "head:6379"}, Machine("ray", 32, 4)),
    ],
)
def test_a_plan_is_of_the_executor_that_a_run_would_use(monkeypatch, cpus, gpus, device, settings, expected):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for module in (executor, planning):
        monkeypatch.setattr(module, "usable_cpus", lambda: cpus)
    monkeypatch.setattr(executor, "count_gpus", lambda: gpus)
    monkeypatch.setattr(planning.LocalHardware, "gpus", lambda _: gpus)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    assert planning.this_machine(load_settings(None, settings), device) == expected


def test_a_gpu_multiplies_each_degree_and_decodes_behind_the_model():
    cpu, gpu = (plan_job(job([2000], on_gpu=on_gpu), RATES) for on_gpu in (False, True))
    assert gpu.mutual_operations == 3 * cpu.mutual_operations
    assert gpu.extract_seconds < cpu.extract_seconds


def test_one_vector_a_patch_takes_a_third_of_the_distances_and_on_a_gpu_of_the_products():
    for on_gpu in (False, True):
        three, one = (plan_job(job([2000], on_gpu=on_gpu, vectors=vectors), RATES) for vectors in (3, 1))
        assert one.pending_bytes == three.pending_bytes / 3
        assert one.exchanged_bytes == three.exchanged_bytes / 3
        assert one.mutual_operations == three.mutual_operations / (3 if on_gpu else 1)
        assert one.mutual_memory < three.mutual_memory
        assert one.mutual_bytes_read == three.mutual_bytes_read


def test_assumed_rates_say_so_and_unknown_kinds_are_refused():
    rates = assumed_rates("h100", INFO, [])
    assert "not measured" in rates.source
    assert rates.model_operations == pytest.approx(0.4 * 989e12)
    with pytest.raises(SettingsError, match=r"--gpu must be one of .*h100.*not 'h1000'"):
        assumed_rates("h1000", INFO, [])


@pytest.mark.parametrize(("cpus", "threads", "workers"), [(1, 1, 1), (6, 1, 6), (6, 4, 1)])
def test_workers_are_planned_on_the_cpus_that_this_process_may_use(monkeypatch, tmp_path, cpus, threads, workers):
    """A container or a batch system may leave a process fewer CPUs than its host has."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    measured = []
    monkeypatch.setattr("musc_ray.planning.calibration.measured_rates", lambda *given: measured.append(given) or RATES)
    write_pictures(tmp_path, 3)
    given = {
        "source": str(tmp_path),
        "backbone": "dinov2-vit-s-14",
        "image_size": 56,
        "device": "cpu",
        "executor": "ray",
    }
    settings = load_settings(None, {**given, "threads": threads})
    plan = plan_archive(settings, list_archive(settings))
    assert plan.job.workers == workers
    assert [(workload.workers, workload.threads) for _, workload, _ in measured] == [(workers, threads)]


def test_forward_operations_are_close_to_a_count_of_the_matrix_products():
    """ViT-S/14 at 224 px: 257 tokens, 12 blocks of qkv, projection, MLP and attention."""
    info = BackboneInfo("timm:vit_small", (224, 224), 14, (16, 16), 12, (11,), 384, 384)
    tokens, c = 257, 384
    block = 2 * tokens * (c * 3 * c + c * c + 2 * c * 4 * c) + 2 * 2 * tokens**2 * c
    np.testing.assert_allclose(forward_operations(info), 12 * block)


def test_in_int8_each_vector_has_its_own_product_on_a_cpu_too():
    low, eight = (plan_job(job([2000], precision=precision), RATES) for precision in ("bfloat16", "int8"))
    assert eight.mutual_operations == 3 * low.mutual_operations
    assert eight.exchanged_bytes == low.exchanged_bytes  # distances are float16 either way


def test_compressed_features_are_stored_read_and_multiplied_at_their_own_size():
    full, few = (plan_job(job([2000, 500], **stored), RATES) for stored in ({}, {"stored": ("int8", True, 48)}))
    patches, layers, images = 24, 4, 2500
    assert full.feature_bytes == images * (layers * patches * 192 * 2 + 192 * 4)
    assert few.feature_bytes == images * (layers * (patches * (48 + 4) + 8) + 192 * 4)
    assert few.mutual_operations == full.mutual_operations / 4
    assert few.mutual_bytes_read / full.mutual_bytes_read == pytest.approx((patches * 52 + 8) / (patches * 384))
    assert few.extract_operations == full.extract_operations
    assert few.mutual_memory < full.mutual_memory
    assert few.extract_memory < full.extract_memory
    salient = plan_job(job([2000, 500], stored=("int8", True, 48), salient_vectors=2), RATES)
    assert salient.mutual_bytes_read - few.mutual_bytes_read == images * (patches * 52 + 8)


def test_formats_are_those_of_stored_decisions_else_what_auto_may_take():
    cpu = Arithmetic("cpu", "bfloat16", "bfloat16", 10, "int8")
    groups = {"stored": 300, "left": 300, "new": 300, "small": 63}
    stored = {"stored": Compression(300, 32, 128, (0.99,), "a" * 64), "left": Compression(10)}

    def formats(**given):
        decided = stored if "compress" in given else {}
        made = zip(groups, group_formats(load_settings(None, given), INFO, cpu, groups, decided), strict=True)
        return {name: (f.channels, f.dtype, f.compressed, f.precision, f.sample) for name, f in made}

    plain = (192, "float16", False, "bfloat16", 0)
    assert formats() == dict.fromkeys(groups, plain)
    assert formats(compress="auto") == {
        "stored": (32, "int8", True, "int8", 0), "left": plain, "new": (48, "int8", True, "int8", 128), "small": plain,
    }  # fmt: skip
    of_64 = formats(compress=64, feature_dtype="float16")
    assert of_64["new"] == (64, "float16", True, "int8", 128)
    assert of_64["left"] == plain


def test_a_million_images_of_the_largest_model_fit_into_a_terabyte_and_a_half():
    info = BackboneInfo("open_clip:ViT-L-14-336/openai", (518, 518), 14, (37, 37), 24, (5, 11, 17, 23), 1024, 768)
    arithmetic = Arithmetic("cuda", "float16", "float16", 64, "int8")
    plans = {}
    for compress in ("none", "auto"):
        formats = group_formats(load_settings(None, {"compress": compress}), info, arithmetic, {"g": 1_000_000}, {})
        made = job([1_000_000], 256, on_gpu=True, workers=64, shard_size=64)
        plans[compress] = plan_job(dataclasses.replace(made, info=info, groups=formats), RATES)
    assert plans["none"].feature_bytes > 11e12
    assert plans["auto"].feature_bytes < 1.5e12
    assert plans["auto"].mutual_operations == plans["none"].mutual_operations / 4
    both = dataclasses.replace(plans["none"], compressed=plans["auto"])
    said = compress_proposal(both)
    assert re.search(
        r"--compress auto would store 1\.4 TB of features instead of 11\.2 TB and take [\d,.]+ GPU hours", said
    )
    assert compress_proposal(plans["none"]) is None
    tiny = dataclasses.replace(plan_job(job([300]), RATES), compressed=plan_job(job([300]), RATES))
    assert compress_proposal(tiny) is None


@pytest.mark.parametrize("radius", [1, 2, 9])
def test_near_the_same_place_only_the_patches_within_the_radius_are_multiplied(radius):
    h, w = INFO.grid
    places = [(y, x) for y in range(h) for x in range(w)]
    compared = sum(max(abs(y - t), abs(x - s)) <= radius for y, x in places for t, s in places)
    anywhere, near = (plan_job(job([2000], vectors=2, radius=value), RATES) for value in (None, radius))
    assert near.mutual_operations == pytest.approx(2 * anywhere.mutual_operations * compared / (h * w) ** 2)
    assert near.pairs == anywhere.pairs
    assert near.exchanged_bytes == anywhere.exchanged_bytes


@pytest.mark.parametrize("meeting", ["same", "all"])
def test_crops_are_counted_as_their_sets_are_multiplied(meeting):
    """Against pairs of patches counted one by one: a whole image meets whole images, crops meet crops."""
    crops, length, layers, images = 6, 24, 4, 40
    plan, whole = plan_job(job([images], crops=crops, meeting=meeting), RATES), plan_job(job([images]), RATES)
    places = range(crops + 1)
    meets = [(a, b) for a in places for b in places if (a == b if meeting == "same" or not (a and b) else True)]
    assert plan.mutual_operations == plan.pairs * len(meets) * 2 * length**2 * 192 * layers
    assert plan.pairs == whole.pairs
    assert plan.extract_operations == images * 7 * forward_operations(INFO)
    assert plan.feature_bytes == 7 * whole.feature_bytes
    assert plan.shards == 20, "two images of seven rows each in a shard of 16 rows"
    assert plan.exchanged_bytes == 7 * whole.exchanged_bytes
    assert plan.pending_bytes == whole.pending_bytes * (6 if meeting == "all" else 1)
    assert plan.result_bytes == images * (6 * length * 4 + 100)
    blocks = 20 * 21 // 2
    assert plan.tiles == layers * blocks * (2 if meeting == "all" else 7)
    large = dataclasses.replace(RATES, image_pixels=1.5e8)
    assert plan_job(plan.job, large).extract_memory - plan.extract_memory == 6 * 1.5e8
    assert plan_job(whole.job, large).extract_memory == whole.extract_memory


def test_matching_near_is_counted_within_places_alone():
    def operations(**given):
        return plan_job(job([40], crops=6, **given), RATES).mutual_operations

    near, anywhere = (plan_job(job([40], radius=radius), RATES).mutual_operations for radius in (1, None))
    assert operations(meeting="same", radius=1) == 7 * near
    assert operations(meeting="all", radius=1) == near + 36 * anywhere


def test_cheaper_comparisons_are_proposed_where_crops_cost_much():
    slow = dataclasses.replace(RATES, mutual_operations=1e10)
    plan = with_cheaper(plan_job(job([1000], crops=20), slow))
    assert list(plan.cheaper) == ["--crop-references same", "--references 64"]
    same, fewer = plan.cheaper.values()
    assert (plan.mutual_operations, same.mutual_operations) == (
        pytest.approx(401 / 21 * same.mutual_operations), pytest.approx(21 / 401 * plan.mutual_operations),
    )  # fmt: skip
    assert fewer.pairs == 1000 * 64 // 2
    said = crops_proposal(plan)
    assert re.search(
        r"takes [\d,]+ h [^;]* \(crop_references auto counts as all\); it would take with --crop-references same "
        r"[^(]*\(aligned products\) and --references 64 [^(]*\(scores move little\)\.",
        said,
    )
    document = plan_document(plan, 100)["crops"]
    assert document["images_by_crops"] == {"20": 1000}
    assert document["cheaper"]["--references 64"]["mutual_seconds"] == fewer.mutual_seconds
    assert crops_text(plan) == "21,000: each image and 20 crops of it, compared with all crops of other images"
    aligned = with_cheaper(plan_job(job([1000], crops=20, meeting="same"), slow))
    assert list(aligned.cheaper) == ["--references 64"]
    for cheap in (job([1000]), job([4], crops=20)):
        plan = with_cheaper(plan_job(cheap, slow))
        assert plan.cheaper == {}
        assert crops_proposal(plan) is None
    assert plan_document(plan_job(job([4]), slow), 100)["crops"] is None


def test_known_good_images_are_embedded_and_met_by_all_others():
    alone, made = plan_job(job([40]), RATES), job([40])
    beside = plan_job(dataclasses.replace(made, groups=[dataclasses.replace(made.groups[0], known_good=10)]), RATES)
    assert beside.images == alone.images == 40
    assert beside.extract_operations == pytest.approx(alone.extract_operations * 50 / 40)
    assert beside.feature_bytes == pytest.approx(alone.feature_bytes * 50 / 40)
    assert beside.mutual_operations == pytest.approx(alone.mutual_operations * (780 + 400) / 780)
    assert beside.mutual_bytes_read > alone.mutual_bytes_read
