"""The difference of two models as a LoRA for the one: the best of a rank, module by module."""
