"""The U-Net, how it reconstructs what is hidden, and how it learns."""
