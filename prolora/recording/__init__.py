"""What a source says of its LoRA: recording it, calibrating and refining by it. No host is needed."""
