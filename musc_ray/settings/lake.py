"""The setting `lake`: the Iceberg tables that scores are published to."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from musc_ray.settings.credentials import has_credentials
from musc_ray.settings.types import expects

TABLE = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$"


class Lake(BaseModel):
    """Iceberg tables that scores are published to.

    Attributes:
        table: table of scores, with its namespace: plant.scores.
        catalog: see `lake/catalog.py`; default: a SQLite file in OUT/lake.
        warehouse: folder or URI prefix of the tables; default: as the catalog says.
        maps: whether patch maps are published, too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    table: str = Field(pattern=TABLE)
    catalog: str | None = None
    warehouse: str | None = None
    maps: bool = True

    @field_validator("catalog", "warehouse")
    @classmethod
    def _no_secrets(cls, value: str | None, info: ValidationInfo) -> str | None:
        """Refuse credentials: run.json stores every setting."""
        if value is not None and has_credentials(value):
            raise ValueError(
                f"Setting 'lake' carries credentials in its {info.field_name}: give them in the environment, for "
                f"example as PYICEBERG_CATALOG__LAKE__URI, or in .pyiceberg.yaml, and name that catalog."
            )
        return value


OptionalLake = Annotated[
    Lake | None, expects("a mapping of table and perhaps catalog, warehouse and maps, such as {table: plant.scores}")
]
