"""How alike two models are: figures, text, heat map."""
