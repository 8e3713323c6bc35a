"""`scripts/audit`: checks the locks' hashes and known vulnerabilities. Standard library, and pip-audit."""

import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / ".run" / "audit"
LOCK = ROOT / "requirements" / "audit.lock"
REQUIREMENT = re.compile(r"^([A-Za-z0-9_.\[\]-]+)==(\S+)")


class AuditError(Exception):
    """The audit found a problem or could not run. The message says what."""


def main(arguments: list[str]) -> None:
    if arguments not in ([], ["--offline"]):
        raise AuditError(f"{' '.join(arguments)!r} is no option; there is --offline")
    locks = sorted((ROOT / "requirements").glob("*.lock"))
    requirements: dict[str, str] = {}
    for lock in locks:
        requirements |= hashed(lock)
    requirements |= unhashed()
    names = ", ".join(lock.name for lock in locks)
    print(f"hashes: each of the requirements of {names} has one; torch has none (its build depends on the machine)")
    if arguments:
        print("vulnerabilities: NOT asked for (--offline)")
        return
    vulnerabilities(requirements)


def hashed(lock: Path) -> dict[str, str]:
    """Package name → version. Raises AuditError if a package is not pinned or has no hash."""
    found = {}
    for block in re.split(r"\n(?=\S)", lock.read_text(encoding="utf-8")):
        lines = [line for line in block.splitlines() if line.strip() and not line.strip().startswith("#")]
        if not lines:
            continue
        requirement = REQUIREMENT.match(lines[0])
        if not requirement:
            raise AuditError(f"{lock.name}: {lines[0]!r} is not pinned to one version")
        if not all(re.search(r"--hash=sha256:[0-9a-f]{64}", line) for line in lines[1:]) or len(lines) < 2:
            raise AuditError(f"{lock.name}: {requirement[1]} has no hash")
        found[requirement[1]] = requirement[2]
    if not found:
        raise AuditError(f"{lock.name}: names nothing")
    return found


def unhashed() -> dict[str, str]:
    """torch, which is installed without a hash."""
    text = (ROOT / "requirements" / "torch.in").read_text(encoding="utf-8")
    return {found[1]: found[2] for line in text.splitlines() if (found := REQUIREMENT.match(line))}


def vulnerabilities(requirements: dict[str, str]) -> None:
    """Queries the database for all packages. Raises AuditError if one is vulnerable or could not be checked."""
    service = os.environ.get("AUDIT_SERVICE", "pypi")
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text("".join(f"{name}=={version}\n" for name, version in requirements.items()))
        command = [tool(), "--disable-pip", "--no-deps", "-r", str(listed), "--vulnerability-service", service]
        done = subprocess.run([*command, "--format=json", "--progress-spinner=off"], capture_output=True, text=True)
    try:
        answers: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise AuditError(f"the database {service} cannot be asked, so NOTHING is known about vulnerabilities: {last}") from None
    report(requirements, answers, service)


def report(requirements: dict[str, str], answers: list[dict[str, Any]], service: str) -> None:
    # pip-audit skips packages that the index does not know and still exits with 0, so silence is not enough
    audited = [answer for answer in answers if "skip_reason" not in answer]
    for answer in audited:
        for found in answer.get("vulns", []):
            fixed = ", ".join(found.get("fix_versions", [])) or "no version"
            print(f"  {answer['name']} {answer['version']}: {found['id']}, mended in {fixed}")
    print(f"vulnerabilities: {len(audited)} of {len(requirements)} packages were looked up in {service}")
    vulnerable = [answer["name"] for answer in audited if answer.get("vulns")]
    if vulnerable:
        raise AuditError(f"vulnerable: {', '.join(vulnerable)}")
    if len(audited) < len(requirements):
        unknown = sorted({name.lower() for name in requirements} - {answer["name"].lower() for answer in audited})
        shown = ", ".join(unknown[:8]) + (" …" if len(unknown) > 8 else "")
        raise AuditError(
            f"the database {service} answers nothing about {len(unknown)} packages ({shown}): NOTHING is known of them; "
            "--offline leaves the question out"
        )


def tool() -> str:
    """pip-audit as requirements/audit.lock pins it, in an environment of its own."""
    program, stamp = TOOL / "bin" / "pip-audit", TOOL / "audit.lock"
    if not program.exists() or not stamp.exists() or stamp.read_text() != LOCK.read_text():
        venv.create(TOOL, with_pip=True, clear=True)
        install = [str(TOOL / "bin" / "python"), "-m", "pip", "install", "-q", "--no-deps", "--require-hashes", "-r", str(LOCK)]
        installed = subprocess.run(install, capture_output=True, text=True)
        if installed.returncode:
            raise AuditError(
                f"pip-audit cannot be installed: {(installed.stderr.strip().splitlines() or ['no reason given'])[-1]}"
            )
        stamp.write_text(LOCK.read_text())
    return str(program)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except AuditError as error:
        sys.exit(f"audit: {error}")
