"""What stands here is run by `foldstream bench` as programs; none of it is a test."""

collect_ignore_glob = ["*.py"]
