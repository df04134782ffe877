"""Which block and module of one model is which of the other."""
