"""The part of scripts/check_dataset.py that reads, in processes of its own."""
