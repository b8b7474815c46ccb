"""Fine-tuned models for other software."""
