"""What pictures are drawn on."""
