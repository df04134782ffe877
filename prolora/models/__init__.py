"""What a checkpoint is: its weights one at a time, what its modules are called."""
