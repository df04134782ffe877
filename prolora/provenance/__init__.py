"""What a LoRA file says of itself and its base, whether that is so, and what a moved one says."""
