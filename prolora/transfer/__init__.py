"""The job: from a LoRA and two models to a moved LoRA and a report."""
