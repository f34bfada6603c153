#!/bin/sh
# `foldstream` inside the image, where the project is run from its sources.
exec python -m agents "$@"
