"""The audit of the dependencies: what it accepts, and that silence of a database is never taken for good news."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts import audit_locks
from scripts.audit_locks import AuditError

ROOT = Path(__file__).parents[1]
HASH = f"    --hash=sha256:{'0' * 64}"


def test_every_requirement_of_this_checkout_has_a_hash() -> None:
    done = subprocess.run(
        ["scripts/audit", "--offline"], cwd=ROOT, env={"PYTHON": sys.executable}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "vulnerabilities: NOT asked for" in done.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"one==1.0 \\\n{HASH}\ntwo==2.0\n", "two has no hash"),
        (f"one==1.0 \\\n{HASH}\ntwo>=2.0 \\\n{HASH}\n", "'two>=2.0 .*' is not pinned"),
        ("one==1.0 \\\n    --hash=md5:00\n", "one has no hash"),
        ("# nothing\n", "names nothing"),
    ],
)
def test_a_lock_with_a_gap_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "some.lock").write_text(text)
    with pytest.raises(AuditError, match=f"some.lock: {said}"):
        audit_locks.hashed(tmp_path / "some.lock")


def test_packages_that_the_database_does_not_answer_for_fail_the_audit() -> None:
    answers = [{"name": "one", "version": "1.0", "vulns": []}, {"name": "two", "skip_reason": "not found"}]
    with pytest.raises(AuditError, match=r"answers nothing about 1 packages \(two\)"):
        audit_locks.report({"one": "1.0", "two": "2.0"}, answers, "pypi")


def test_a_vulnerable_package_fails_the_audit_by_its_name() -> None:
    answers = [{"name": "one", "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": ["1.1"]}]}]
    with pytest.raises(AuditError, match="vulnerable: one"):
        audit_locks.report({"one": "1.0"}, answers, "pypi")
