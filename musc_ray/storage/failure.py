"""Why the last attempt of a run that is not complete failed."""

from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict

from musc_ray.storage.filesystem import read_json, write_json
from musc_ray.storage.paths import RunPaths


class Failure(BaseModel):
    """The content of failed.json."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    failed_at: datetime
    message: str

    @classmethod
    def read(cls, run_paths: RunPaths) -> Self | None:
        """Read failed.json of a run; None where it is missing."""
        content = read_json(run_paths.fs, run_paths.failed_json)
        return None if content is None else cls.model_validate(content)

    def write(self, run_paths: RunPaths) -> None:
        """Write failed.json."""
        write_json(run_paths.fs, run_paths.failed_json, self.model_dump(mode="json"))
