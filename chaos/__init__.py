"""Breaks a real stack on purpose, and checks that nothing is lost: see docs/reliability.md."""
