"""Many LoRAs at once: those of one pair of models share what is found of it; libraries of them."""
