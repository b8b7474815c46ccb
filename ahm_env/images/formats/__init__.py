"""What images come in: each format finds, reads and writes its images and masks."""
