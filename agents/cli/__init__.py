"""The commands of `foldstream`, a file each; every one is thin and calls into the layers below."""
