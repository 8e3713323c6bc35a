"""One way to start Tritons and gateways, wait for them and break them: what tests, chaos and bench share."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
