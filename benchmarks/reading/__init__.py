"""What reading files takes, and whether they are read right, also damaged and crafted ones."""
