"""MuSc's protocol on a dataset, as a Ray job: score each category's test images, evaluate, print one table.

ray job submit --working-dir . -- python jobs/evaluate.py --config jobs/evaluate.yaml --set source=... --set out=...
"""

import argparse
import sys

from rich.console import Console

from musc_ray.cli.options import STOPPED
from musc_ray.cli.verbs import stop_on_sigterm
from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.evaluate.benchmark import evaluate_dataset
from musc_ray.evaluate.show import print_metrics
from musc_ray.runtime.progress import Progress
from musc_ray.settings.loading import load_settings


def main() -> int:
    """Exit code: 0 done, 1 failed, 2 settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="YAML file with settings")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any setting; may be repeated")
    arguments = parser.parse_args()
    stop_on_sigterm()
    try:
        settings = load_settings(arguments.config, None, arguments.set)
        result, found = evaluate_dataset(settings, Progress())
        print_metrics(found.rows, found.about, found.notes, found.folder, Console())
        if result.run["failed_groups"]:
            raise MuscRayError(" ".join(result.run["failed_groups"].values()))
    except MuscRayError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 2 if isinstance(error, SettingsError) else 1
    except KeyboardInterrupt:
        sys.stderr.write(f"{STOPPED}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
