"""The parts of scripts/check_dataset.py: find the files, read them, compare them, print a table."""
