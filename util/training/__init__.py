"""What goes on around the training step."""
