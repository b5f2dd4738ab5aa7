"""Helpers that know nothing of any particular model or dataset."""
