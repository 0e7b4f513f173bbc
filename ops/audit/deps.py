"""`just audit-deps`: known vulnerabilities, licences, and a bill of materials of what tallyd depends on.

    vulnerabilities   of every package of requirements.lock, by pip-audit
    licences          of the packages that a host with tallyd has, against ALLOWED
    bill of materials of the same packages, as CycloneDX in dist/

Exit codes: 0 nothing was found; 1 a vulnerability, or a licence that is not on the list; 3 the vulnerabilities are not
known, because the index has no such service or could not be reached. It changes nothing outside .audit and dist.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import typer
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.lock"
TOOLS = ROOT / ".audit" / "tools" / "bin"
RUNTIME = ROOT / ".audit" / "runtime"
"""An environment with the packages of a host that runs tallyd, and no others."""
BILL = ROOT / "dist" / "tallyd.cdx.json"

ALLOWED = frozenset({"MIT", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "PSF-2.0", "ISC", "0BSD"})
"""SPDX names of licences under which tallyd may be passed on with what it depends on."""
AS_SPDX = {
    "MIT License": "MIT", "BSD License": "BSD-3-Clause", "Apache Software License": "Apache-2.0",
    "Apache 2.0": "Apache-2.0", "Apache License, Version 2.0": "Apache-2.0", "Apache License 2.0": "Apache-2.0",
    "BSD": "BSD-3-Clause", "MIT license": "MIT", "3-Clause BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC", "Python Software Foundation License": "PSF-2.0",
}  # fmt: skip
"""How older metadata spells them."""
LOOKED_UP = {"crawler-user-agents": "MIT"}
"""Packages whose metadata does not tell, but their LICENSE file."""

FOUND, UNKNOWN = 1, 3


def main() -> None:
    needed = runtime_packages("tallyd")
    typer.echo(f"{len(needed)} packages at run time, {len(locked())} in requirements.lock with all tools and tests.")
    found = licences(needed)
    bill_of_materials(needed)
    raise SystemExit(max(found, vulnerabilities()))


def runtime_packages(name: str) -> set[str]:
    """All that this package needs to run, itself excepted: normalised names. As installed beside this Python."""
    needed: set[str] = set()
    left = [Requirement(name)]
    while left:
        of = left.pop()
        for text in metadata.requires(of.name) or ():
            one = Requirement(text)
            wanted = one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *of.extras))
            if wanted and (known := normalised(one.name)) not in needed:
                needed.add(known)
                left.append(one)
    return needed


def normalised(name: str) -> str:
    """As PEP 503 compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    """Package → its lines of the lock, hashes included."""
    blocks = re.split(r"^(?=[A-Za-z0-9])", LOCK.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {normalised(re.split(r"[=\[ ]", block, maxsplit=1)[0]): block for block in blocks if "==" in block}


def licences(needed: set[str]) -> int:
    """Prints each licence and its packages."""
    by_licence: dict[str, list[str]] = {}
    for name in sorted(needed):
        by_licence.setdefault(licence_of(name), []).append(name)
    typer.echo("\nLicences:")
    for licence, names in sorted(by_licence.items()):
        typer.echo(f"  {licence}{'' if is_allowed(licence) else ' (NOT on the list)'}: {', '.join(names)}")
    return 0 if all(map(is_allowed, by_licence)) else FOUND


def licence_of(name: str) -> str:
    """The SPDX expression of an installed package, as far as its metadata tells."""
    if name in LOOKED_UP:
        return LOOKED_UP[name]
    about = metadata.metadata(name)
    if expression := about.get("License-Expression"):
        return expression
    classified = [text.rpartition(" :: ")[2] for text in about.get_all("Classifier", []) if text.startswith("License")]
    told = [text for text in classified if text != "OSI Approved"] or [
        (about.get("License") or "unknown").split("\n")[0]
    ]
    return " AND ".join(sorted({AS_SPDX.get(text, text) for text in told}))


def is_allowed(expression: str) -> bool:
    """Whether one of its alternatives is on the list, part by part."""
    choices = re.sub(r"[()]", "", expression).split(" OR ")
    return any(all(part.strip() in ALLOWED for part in choice.split(" AND ")) for choice in choices)


def bill_of_materials(needed: set[str]) -> None:
    """Installs the packages, by the lock's hashes, and describes what is there then."""
    subset = RUNTIME.parent / "runtime.lock"
    subset.write_text("".join(block for name, block in locked().items() if name in needed), encoding="utf-8")
    run(sys.executable, "-m", "venv", "--clear", str(RUNTIME))
    python = str(RUNTIME / "bin" / "python")
    run(python, "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r", str(subset))
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "pip", "setuptools")
    BILL.parent.mkdir(exist_ok=True)
    describe = ("environment", "--pyproject", str(ROOT / "pyproject.toml"), "--output-file", str(BILL), python)
    run(str(TOOLS / "cyclonedx-py"), *describe)
    made = json.loads(BILL.read_bytes())
    typer.echo(f"\n{BILL.relative_to(ROOT)}: CycloneDX {made['specVersion']}, {len(made['components'])} components.")


def vulnerabilities() -> int:
    """Prints each known one. A package that could not be looked up is not one without: that is said, too."""
    audit = [str(TOOLS / "pip-audit"), "--disable-pip", "--require-hashes", "--progress-spinner", "off"]
    done = subprocess.run([*audit, "--format", "json", "-r", str(LOCK)], capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        typer.echo(f"\nVulnerabilities: not known. pip-audit said: {done.stderr.strip()[-300:]}")
        return UNKNOWN
    skipped = [each["name"] for each in packages if "skip_reason" in each]
    known = [(each, found) for each in packages for found in each.get("vulns", ())]
    typer.echo(f"\nVulnerabilities: {len(packages) - len(skipped)} packages looked up, {len(known)} found.")
    for package, found in known:
        mended = ", ".join(found["fix_versions"]) or "nothing yet"
        typer.echo(f"  {package['name']} {package['version']}: {found['id']}, mended in {mended}")
    if skipped:
        typer.echo(f"  NOT looked up, for the index does not tell about them: {len(skipped)} packages.")
    return FOUND if known else UNKNOWN if skipped else 0


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
