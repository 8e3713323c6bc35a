"""schemathesis makes requests of our own OpenAPI document, right ones and wrong ones: none is answered with an inner error.

Every answer is held against the document: its status, content type, headers and body, a stream's events too. What the document
rules out must be refused, and so must a missing or a wrong key. That all that it allows is accepted is not asked: JSON Schema
cannot say which regular expressions compile, nor that 5.0 is no integer here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LEAST_CASES = 2000
EXAMPLES = 20  # random ones of each operation, besides those at all bounds, which schemathesis calls coverage
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
]


@pytest.mark.slow
def test_no_request_of_two_thousand_is_answered_with_an_inner_error_or_against_the_document(
    tiny_gateway_url: str, api_key: str, tmp_path: Path
) -> None:
    settings, report = tmp_path / "schemathesis.toml", tmp_path / "report.json"
    settings.write_text(f'[auth.openapi.X-API-Key]\napi_key = "{api_key}"\n')
    command = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(settings)]
    command += [
        "run",
        f"{tiny_gateway_url}/openapi.json",
        "--phases",
        "examples,coverage,fuzzing",
        "--mode",
        "all",
        "--workers",
        "1",  # Python 3.11 cannot parse in two threads: "AST constructor recursion depth mismatch"
    ]
    command += ["--checks", ",".join(CHECKS), "--max-examples", str(EXAMPLES), "--generation-deterministic"]
    command += ["--continue-on-failure", "--request-timeout", "60", "--no-color"]
    command += ["--report", "json", "--report-json-path", str(report)]
    env = os.environ | {"SCHEMATHESIS_HOOKS": "tests.clients.schemathesis_hooks", "PYTHONPATH": "."}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    told = json.loads(report.read_text())
    cases, operations = told["test_cases"], told["operations"]
    assert operations["tested"] == operations["total"] >= 16 and told["complete"]
    assert cases["generated"] - cases["without_checks"] >= LEAST_CASES
