"""Ask the package index whether the installed packages have known vulnerabilities, with pip-audit.

    python scripts/audit.py

Ends with 1 where one has. An index that does not answer, or does not know a package, is told and is no fault of ours:
what pip-audit itself calls "no known vulnerabilities" may be that nothing was looked at.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PATIENCE = 600  # seconds
WORDS = ("--local", "--skip-editable", "--progress-spinner", "off", "--format", "json")


def judged(packages: list[dict[str, Any]]) -> tuple[list[str], str]:
    """The vulnerabilities that pip-audit found, a line each, and how much it looked at."""
    found = [
        f"{package['name']} {package['version']}: {each['id']}, fixed in {', '.join(each['fix_versions']) or 'none'}"
        for package in packages
        for each in package.get("vulns", ())
    ]
    known = sum("vulns" in package for package in packages)
    says = f"audited {known} of {len(packages)} packages"
    return found, says if known else f"audit skipped: the index knows none of {len(packages)} packages"


def main() -> int:
    if importlib.util.find_spec("pip_audit") is None:
        print("audit skipped: pip-audit is not installed")
        return 0
    with tempfile.TemporaryDirectory() as here:
        out = Path(here) / "audit.json"
        words = [sys.executable, "-m", "pip_audit", *WORDS, "--output", str(out)]
        try:
            run = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            print(f"audit skipped: no answer within {PATIENCE} s")
            return 0
        if not out.is_file():
            print(f"audit skipped: {(run.stderr.strip() or 'no answer').splitlines()[-1]}")
            return 0
        found, says = judged(json.loads(out.read_text())["dependencies"])
    print("\n".join([*found, says]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
