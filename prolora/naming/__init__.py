"""What the written file calls its modules."""
