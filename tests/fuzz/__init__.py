"""Input of strangers, made at random from a seed: `make fuzz`, and a short form among the tests."""
