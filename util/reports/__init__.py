"""What a run writes for people: logs, pages, images."""
