"""Testing in batches and in half precision."""
