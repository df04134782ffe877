"""Safetensors: opened without trust, read when used, written whole or not at all."""
