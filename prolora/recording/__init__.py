"""What a source says of its LoRA: recording, calibrating and refining. No host is needed."""
