"""Measurements of speed: what `foldstream bench` runs. References stand in `tests/bench/`."""
