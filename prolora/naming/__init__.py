"""The module names of the written file."""
