"""What is in a source, what is wrong with it, and how it looks."""
