"""The driver of faults and its verifier: what `foldstream chaos` runs."""
