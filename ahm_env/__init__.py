"""Adaptive hard masking as a Gymnasium environment.

`import ahm_env` registers `AHM/PatchMask-v0`, whose U-Net is frozen, and `AHM/PatchMaskCoTrain-v0`, whose U-Net
learns from the masks.
"""

import gymnasium

from ahm_env.environment.env import PatchMaskEnv, PatchMaskVectorEnv
from ahm_env.environment.wrappers import MultiDiscreteActions, ScoreActions, VectorScoreActions
from ahm_env.errors import ActionError, AHMError, CheckpointError, ImageError, RunError, SettingsError, TrainingError
from ahm_env.images.dataset.image_set import ImageSet
from ahm_env.images.dataset.loader import find_file, find_files, load_images
from ahm_env.images.inspection.contact_sheet import ContactSheet, make_contact_sheet
from ahm_env.images.inspection.report import SourceReport, check_images
from ahm_env.images.source import DataWarning
from ahm_env.masks import MaskRatio, PatchGrid
from ahm_env.model.reconstruction import Reconstructor
from ahm_env.model.unet import UNet
from ahm_env.model.weights import Standardisation

__all__ = [
    "AHMError",
    "ActionError",
    "CheckpointError",
    "ContactSheet",
    "DataWarning",
    "ImageError",
    "ImageSet",
    "MaskRatio",
    "MultiDiscreteActions",
    "PatchGrid",
    "PatchMaskEnv",
    "PatchMaskVectorEnv",
    "Reconstructor",
    "RunError",
    "ScoreActions",
    "SettingsError",
    "SourceReport",
    "Standardisation",
    "TrainingError",
    "UNet",
    "VectorScoreActions",
    "check_images",
    "find_file",
    "find_files",
    "load_images",
    "make_contact_sheet",
]

for _id, _co_train in (("AHM/PatchMask-v0", False), ("AHM/PatchMaskCoTrain-v0", True)):
    gymnasium.register(
        id=_id,
        entry_point="ahm_env.environment.env:PatchMaskEnv",
        vector_entry_point="ahm_env.environment.env:PatchMaskVectorEnv",
        nondeterministic=_co_train,
        kwargs={"co_train": _co_train},
    )
