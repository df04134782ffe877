"""The similarity of two models: figures, text, heat map."""
