"""Pictures judged: how near to a reference, how true to the prompt, how diverse."""
