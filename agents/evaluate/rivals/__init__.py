"""The models that FOLD is measured against, a file each."""
