"""How good a fine-tuned model is: measures, intervals, pictures and a page."""
