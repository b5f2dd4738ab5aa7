"""Faster layers for CPUs, with the results of torch's own."""
