"""What a fine-tuned model finds in new images, in their own format."""
