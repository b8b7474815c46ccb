"""What the pretrained U-Net is good for: fine-tuning for segmentation and classification."""
