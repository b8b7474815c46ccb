"""What the pretrained U-Net is good for: fine-tuning for segmentation and classification."""
# This file belongs to ahm-env; `ahm` looks for this line, since others have packages of this name, too.

from downstream.finetuning.finetune import FinetunedModel, finetune

__all__ = ["FinetunedModel", "finetune"]
