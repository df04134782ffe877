"""Runs a real ComfyUI for the demo and the host tests: the server, its HTTP side and its page."""
