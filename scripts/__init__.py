"""Programs around the trainer: data to start with, downloads, joining image pairs."""
