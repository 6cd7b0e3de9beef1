"""Known vulnerabilities of the locks: `make audit`.

Exit code 0: every package was looked up and none is known to be vulnerable. 1: some are; they are printed with the versions that mend them.
3: some could not be looked up (a mirror without vulnerability data, no network), so nothing can be said; pip-audit itself would end with 0 then.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra.supply.lock import REQUIREMENTS, ROOT, RUNTIME

CLEAN, VULNERABLE, UNKNOWN = 0, 1, 3


def main() -> int:
    """Audit both locks and say what was found; returns the exit code."""
    codes = []
    for path in (REQUIREMENTS, RUNTIME):
        code, lines = verdict(_audited(path))
        print(f"{path.relative_to(ROOT)}: " + "\n".join(lines))
        codes.append(code)
    return VULNERABLE if VULNERABLE in codes else max(codes)


def verdict(packages: Sequence[dict[str, Any]] | None) -> tuple[int, list[str]]:
    """Exit code and lines for what pip-audit found of each package; None where it could not run."""
    if packages is None:
        return UNKNOWN, ["not audited: pip-audit failed (see above). This is not a clean bill"]
    bad = [
        f"  {package['name']} {package['version']}: {found['id']} ({', '.join(found.get('aliases', [])) or 'no alias'}), "
        f"mended in {', '.join(found['fix_versions']) or 'no version yet'}"
        for package in packages
        for found in package.get("vulns", [])
    ]
    unknown = [package for package in packages if "skip_reason" in package]
    lines = [f"{len(packages) - len(unknown)} of {len(packages)} packages looked up, {len(bad)} known vulnerabilities", *bad]
    if unknown:
        lines.append(
            f"  {len(unknown)} could not be looked up, for example: {unknown[0]['skip_reason']}. This is not a clean bill: run it where PyPI is reached"
        )
    return (VULNERABLE if bad else UNKNOWN if unknown or not packages else CLEAN), lines


def _audited(path: Path) -> list[dict[str, Any]] | None:
    command = [sys.executable, "-m", "pip_audit", "-r", str(path), "--require-hashes", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(done.stderr[-2000:], file=sys.stderr)
        return None
    return found


if __name__ == "__main__":
    sys.exit(main())
