"""Open the Iceberg catalog that the settings name; secrets come from the environment or pyiceberg's own files."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from musc_ray.errors import MuscRayError, SettingsError, reason_of
from musc_ray.storage.retry import Backoff, retry

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

NAME = "lake"
"""Name of a catalog that is given as a URI: `PYICEBERG_CATALOG__LAKE__TOKEN` and the like are meant for it."""

SQLITE = "sqlite:///"

CREATION_BACKOFF = Backoff(attempts=3, first_seconds=0.5, max_seconds=1.0)

Made = TypeVar("Made")


def open_catalog(catalog: str, warehouse: str | None = None) -> "Catalog":
    """Open a catalog that pyiceberg knows.

    Args:
        catalog: a URI (`sqlite:///lake/catalog.db`, `https://...` for REST, `postgresql://...`, `thrift://...`),
            `glue`, or a name in pyiceberg's configuration (`.pyiceberg.yaml`, `PYICEBERG_CATALOG__<NAME>__URI`).
        warehouse: where tables lie; default: what the catalog says, and beside the file for SQLite.

    Raises:
        SettingsError: the extra is not installed, or no such catalog.
        MuscRayError: the catalog does not answer.
    """
    try:
        from pyiceberg.catalog import load_catalog
    except ImportError as error:
        raise SettingsError("Iceberg tables need the extra 'lake': pip install 'musc-ray[lake]'.") from error
    properties = {} if warehouse is None else {"warehouse": warehouse}
    if "://" not in catalog:
        name = catalog
        if catalog == "glue":
            properties["type"] = "glue"
    else:
        name, properties["uri"] = NAME, catalog
        if catalog.startswith(SQLITE):
            folder = Path(catalog.removeprefix(SQLITE)).absolute().parent
            folder.mkdir(parents=True, exist_ok=True)
            properties.setdefault("warehouse", folder.as_uri())
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        properties["s3.endpoint"] = endpoint
    try:
        return retry_creation(lambda: load_catalog(name, **properties))
    except ValueError as error:
        raise SettingsError(
            f"There is no Iceberg catalog '{catalog}' ({error}): give a URI, or describe it in .pyiceberg.yaml."
        ) from error
    except Exception as error:  # drivers of databases and services raise errors of many libraries
        raise MuscRayError(f"The Iceberg catalog '{catalog}' cannot be opened: {reason_of(error)}.") from error


def retry_creation(make: Callable[[], Made]) -> Made:
    """Create something unless it exists; retry when another process creates the same at that moment.

    Catalogs look first and create then: of two that begin at once, the later one fails with whatever its database or
    server raises. The next attempt finds what the other one created.

    Args:
        make: creates it, or returns it where it exists.
    """
    return retry(make, _is_transient, CREATION_BACKOFF)


def _is_transient(error: Exception) -> bool:
    from pyiceberg.exceptions import ServerError

    try:
        from sqlalchemy.exc import DatabaseError
    except ImportError:
        return isinstance(error, ServerError)
    return isinstance(error, ServerError | DatabaseError)


def open_table(catalog: "Catalog", name: str) -> "Table":
    """Load a table of a catalog.

    Raises:
        MuscRayError: the catalog has no table of this name.
    """
    from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

    try:
        return catalog.load_table(name)
    except (NoSuchTableError, NoSuchNamespaceError) as error:
        raise MuscRayError(f"The Iceberg catalog '{catalog.name}' has no table {name}.") from error
