"""Settle for each group what a sample of its images decides, the driver: where patches look for their nearest.

What is settled for a group is stored beside its features, so that nights and later runs on more images do the same,
and in the run's folder, so that a resumed run continues as it began whatever else happens to the features. A group that
had too few images for a sample is settled again when it has grown, and a note says what changed.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from musc_ray.errors import MuscRayError
from musc_ray.features.context import RunContext
from musc_ray.runtime.pool import Pool
from musc_ray.runtime.progress import Progress
from musc_ray.scoring.ring import GroupImages
from musc_ray.storage.conditional import create
from musc_ray.storage.filesystem import read_json, write_json
from musc_ray.storage.group_crop_references import GroupCropReferences
from musc_ray.storage.group_foreground import GroupForeground
from musc_ray.storage.group_matching import GroupMatching
from musc_ray.storage.group_shown_maps import GroupShownMaps
from musc_ray.storage.paths import RunPaths
from musc_ray.storage.retry import with_retries

Answer = TypeVar("Answer", GroupMatching, GroupCropReferences, GroupForeground, GroupShownMaps)


@dataclass(frozen=True)
class Question(Generic[Answer]):
    """What a sample decides.

    Attributes:
        name: of the stage and of the files.
        about: what it says, in the error of a broken file.
        answer: the record of a group.
        call: method of the worker that looks at a sample.
        without_sample: returns the answer of a group that no sample is needed for; None means look.
    """

    name: str
    about: str
    answer: type[Answer]
    call: str
    without_sample: Callable[[GroupImages], Answer | None]


@dataclass(frozen=True)
class Settled(Generic[Answer]):
    """The answers by group, the error of each group whose sample cannot be looked at, and the seconds it took."""

    answers: dict[str, Answer]
    failed: dict[str, Exception]
    seconds: float


def settle(
    pool: Pool,
    context: RunContext,
    groups: Sequence[GroupImages],
    progress: Progress,
    question: Question[Answer],
    depends_on: Callable[[str], Mapping[str, object]],
) -> Settled[Answer]:
    """Settle a question for each group, in a stage of its own.

    Args:
        pool: of workers.
        context: the run.
        groups: to settle it for.
        progress: shows the stage.
        question: what to settle.
        depends_on: returns the settings that what a sample of a group says depends on, beside those of the features.
    """
    run_paths, stored = context.run_paths, _Stored(context, question, depends_on)
    chosen, failed, before = settled(context, question), dict[str, Exception](), dict[str, Answer]()
    open_groups = [group for group in groups if group.group not in chosen]
    with progress.stage(question.name, total=len(groups), unit="groups") as stage:
        stage.already_done(len(groups) - len(open_groups))
        sampled: deque[GroupImages] = deque()
        for group in open_groups:
            few, answer = question.without_sample(group), stored.read(group.group)
            if answer is None and few is not None:
                answer = stored.write(group.group, few)
            elif answer is not None and answer.of_few and few is None:
                before[group.group] = answer
            if answer is None or group.group in before:
                sampled.append(group)
                continue
            chosen[group.group] = answer
            stage.advance(1)
        calls = pool.run(
            lambda _: sampled.popleft() if sampled else None,
            lambda worker, group: worker.call(question.call, group),
        )
        for group, references, error in calls:
            if error is None:
                answer = pool.executor.get(references[0])
                chosen[group.group] = stored.write(group.group, answer, before.get(group.group))
            else:
                failed[group.group] = error
            stage.advance(1)
    if open_groups:
        answers = {name: found.as_json() for name, found in chosen.items()}
        write_json(run_paths.fs, run_paths.settled(question.name), answers)
    return Settled(chosen, failed, stage.seconds)


def settled(context: RunContext, question: Question[Answer]) -> dict[str, Answer]:
    """Read what the run has settled so far, by group."""
    return settled_in(context.run_paths, question)


def settled_in(run_paths: RunPaths, question: Question[Answer]) -> dict[str, Answer]:
    """Read what a run has settled, by group; empty where it did not ask.

    Raises:
        MuscRayError: the file is broken.
    """
    path = run_paths.settled(question.name)
    content = read_json(run_paths.fs, path) or {}
    return {name: _parsed(question, value, path) for name, value in content.items()}


@dataclass(frozen=True)
class _Stored(Generic[Answer]):
    """The answers beside the features of groups, for the settings that they depend on."""

    context: RunContext
    question: Question[Answer]
    depends_on: Callable[[str], Mapping[str, object]]

    def _path(self, group: str) -> str:
        digest = _digest(self.depends_on(group))
        return self.context.out_paths.settled(self.context.meta.features_id, group, self.question.name, digest)

    def read(self, group: str) -> Answer | None:
        """Return what an earlier run stored of a group; with `overwrite` remove it."""
        fs, path = self.context.out_paths.fs, self._path(group)
        stored = read_json(fs, path)
        if stored is None:
            return None
        if self.context.settings.overwrite:
            with_retries(lambda: fs.rm_file(path), f"remove {path}")
            return None
        return _parsed(self.question, stored, path)

    def write(self, group: str, found: Answer, before: Answer | None = None) -> Answer:
        """Store what was found, unless another run was faster; returns what holds.

        Args:
            group: its name.
            found: by a sample, or by a rule for few images.
            before: what the group had as one of too few images, which a sample's answer replaces.
        """
        fs, path = self.context.out_paths.fs, self._path(group)
        if before is not None:
            write_json(fs, path, found.as_json())
            return found.model_copy(update={"grown": found.decided != before.decided})
        if create(fs, path, json.dumps(found.as_json(), indent=2).encode()):
            return found
        return _parsed(self.question, read_json(fs, path) or {}, path)


def _digest(settings: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def _parsed(question: Question[Answer], content: object, path: str) -> Answer:
    try:
        return question.answer.model_validate(content)
    except ValueError as error:
        raise MuscRayError(f"{path} does not say {question.about}: delete it and run again.") from error
