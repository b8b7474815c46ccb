"""What the pretrained U-Net is good for: fine-tuning, prediction, evaluation, comparison, export."""
# This file belongs to ahm-env; `ahm` looks for this line, since others have packages of this name, too.

from downstream.comparison.compare import Comparison, compare, report
from downstream.comparison.mask_evaluation import MaskEvaluation, evaluate_masks
from downstream.comparison.options import Downstream
from downstream.evaluation.evaluation import Evaluation, evaluate
from downstream.exporters.export import Exported, export
from downstream.finetuning.finetune import FinetunedModel, finetune
from downstream.prediction.prediction import Prediction, Predictions, predict
from downstream.sam.annotation import Annotation, annotate

__all__ = [
    "Annotation",
    "Comparison",
    "Downstream",
    "Evaluation",
    "Exported",
    "FinetunedModel",
    "MaskEvaluation",
    "Prediction",
    "Predictions",
    "annotate",
    "compare",
    "evaluate",
    "evaluate_masks",
    "export",
    "finetune",
    "predict",
    "report",
]
