"""Look for known vulnerabilities of the exact versions in constraints.txt: `make audit`.

Advisories come from PyPI, over the network. Exit code 1: a vulnerability; 0: none in what could be looked up, or that
nothing could be, which is said.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Run pip-audit, and print what came of it."""
    uvx = Path(sys.executable).with_name("uvx")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "audit.json"
        options = ["--requirement", ROOT / "constraints.txt", "--no-deps", "--disable-pip", "--format", "json"]
        command = [uvx, "--from", "pip-audit>=2.7", "pip-audit", *options, "--output", report]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        found = json.loads(report.read_text())["dependencies"] if report.exists() else []
        reason = (done.stderr.strip().splitlines() or [""])[-1]
    text, code = verdict(found, reason)
    print(text)
    return code


def verdict(found: list[dict[str, Any]], reason: str) -> tuple[str, int]:
    """What pip-audit's findings come to, and the exit code.

    pip-audit says that nothing is vulnerable where it could look nothing up, too.

    Args:
        found: its `dependencies`.
        reason: the last line of what it complained of.
    """
    looked_up = [each for each in found if "skip_reason" not in each]
    if not looked_up:
        why = found[0]["skip_reason"] if found else reason or "pip-audit said nothing"
        return f"Not audited: no advisories could be had here ({why}); run it where https://pypi.org is reachable.", 0
    vulnerable = [each for each in looked_up if each["vulns"]]
    lines = [
        f"{each['name']} {each['version']}: {known['id']}, fixed in {', '.join(known['fix_versions']) or 'none yet'}"
        for each in vulnerable
        for known in each["vulns"]
    ]
    lines.append(
        f"{len(vulnerable)} of {len(looked_up)} packages have known vulnerabilities; "
        f"{len(found) - len(looked_up)} could not be looked up."
    )
    return "\n".join(lines), 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
