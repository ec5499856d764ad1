"""Score images against others that they do not stand on a ring with: known good ones, or the images of an earlier run.

Both directions of a tile come from one product, so the direction that nobody asks for costs little and is dropped.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from musc_ray.core.distance_summary import DistanceSummary
from musc_ray.core.known_good import NearestGood
from musc_ray.core.operands.base import PreparedShard
from musc_ray.core.patch_scores import Part, patch_scores, summarise
from musc_ray.core.pending_distances import MAX_EXACT_REFERENCES, SUMMARY_CHUNK
from musc_ray.core.precision import distance_dtype
from musc_ray.core.tile_product import multiply_tile


def nearest_distances(
    query: PreparedShard, references: Iterable[PreparedShard], others: Iterable[Tensor | None]
) -> Tensor:
    """Compute the distance of each patch of some images to its nearest patch in ANY of the references.

    Args:
        query: A images, each of P places of L patches.
        references: shards that are prepared like it; read one at a time. It may be one of them itself.
        others: of each reference shard (A, B) bool, which of its images count, False for the same image; None means
            all.

    Returns:
        (D, A, P * L) float32 on the CPU; +inf where no image counts. Of kept patches alone, where only some are kept.
    """
    nearest = torch.full(_shape(query), torch.inf)
    for distances, _ in _distances(query, references, others):
        torch.minimum(nearest, distances.amin(dim=3).float(), out=nearest)
    return nearest


def scores_against(
    query: PreparedShard,
    references: Iterable[PreparedShard],
    others: Iterable[Tensor | None],
    interval: tuple[float, float],
    good: NearestGood | None,
    device: torch.device,
) -> Tensor:
    """Compute patch scores of some images against references: interval average over all that count, mean over degrees.

    The same numbers as a band of a run (`patch_scores`) in which the images that count are all references of an image.
    All distances are kept up to MAX_EXACT_REFERENCES images that count, and summarised beyond.

    Args:
        query, references, others: see `nearest_distances`.
        interval: share of the sorted distances to average.
        good: distances (D, A, P * L) to known good images, see `nearest_distances`; None without any.
        device: where to sort.

    Returns:
        (A, P * L) float32 on the CPU: where no image counts the mean distance to known good ones, or +inf.
    """
    parts: list[Part] = []
    counts, columns = torch.zeros(query.whole_images, dtype=torch.int64), 0
    for distances, counted in _distances(query, references, others):
        parts.append(distances)
        counts += counted
        columns += distances.shape[3]
        if int(counts.max()) > MAX_EXACT_REFERENCES and columns >= SUMMARY_CHUNK:
            parts, columns = [summarise(parts)], 0
    if good is None:
        good = NearestGood(torch.full(_shape(query), torch.inf), 0)
    scores = good.distances.double().mean(dim=0).float()
    for count in sorted(set(counts.tolist())):
        rows = counts == count
        if count:
            of_rows = [_rows(part, rows) for part in parts]
            scores[rows] = patch_scores(of_rows, count, interval, device, good.rows(rows))[0]
    return scores


def _distances(
    query: PreparedShard, references: Iterable[PreparedShard], others: Iterable[Tensor | None]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the distances (D, A, P * L, B) to the images of each shard of which any counts, and how many count (A,)."""
    dtype = distance_dtype(query.dtype)
    for shard, of_shard in zip(references, others, strict=True):
        count = torch.ones(query.whole_images, shard.whole_images, dtype=torch.bool) if of_shard is None else of_shard
        if shard is query:
            count = count & ~torch.eye(len(count), dtype=torch.bool)
        if not count.any():
            continue
        pairs = count | count.T if shard is query else count  # of a diagonal tile they are symmetric
        distances, _ = multiply_tile(query, shard, dtype, pairs)
        if shard is query:
            distances.masked_fill_(~count[None, :, None, :], torch.inf)
        yield distances, count.sum(dim=1)


def _shape(query: PreparedShard) -> tuple[int, int, int]:
    """Return (D, A, P * L) of a shard."""
    return len(query.degrees), query.whole_images, query.places * query.patches


def _rows(part: Part, rows: Tensor) -> Part:
    """Select some images (A,) bool of a part (D, A, ...)."""
    if isinstance(part, DistanceSummary):
        return DistanceSummary(part.counts[:, rows], part.excesses[:, rows])
    return part if rows.all() else part[:, rows]
