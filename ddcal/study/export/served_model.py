"""What MLflow runs of an exported model: copied into it as it is, so it needs torch, numpy and MLflow but no ddcal.

The program holds everything: preprocessing, network and calibration.
"""

from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

BATCH = 256
"""Images of one forward pass: bounds memory."""

SLACK = 1e-3
"""Rounding allowed outside [0, 1]."""


class CalibratedClassifier(PythonModel):
    """Images, float32 (N, C, S, S) in [0, 1], to calibrated probabilities, float32 (N, K)."""

    def load_context(self, context: Any) -> None:
        """Load the exported program."""
        import torch

        self.program = torch.export.load(context.artifacts["program"]).module()

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """Return calibrated probabilities, float32 (N, K).

        Raises:
            ValueError: if a value is NaN or not in [0, 1]; bytes are to be divided by 255 first.
        """
        import torch

        if model_input.size and not (model_input.min() >= -SLACK and model_input.max() <= 1.0 + SLACK):
            raise ValueError(
                f"the images have values from {model_input.min():g} to {model_input.max():g}; every value must be in "
                "[0, 1]: divide bytes by 255, and leave mean, deviation and whitening to the model"
            )
        images = torch.from_numpy(np.ascontiguousarray(model_input))
        with torch.no_grad():
            return torch.cat([self.program(batch) for batch in images.split(BATCH)]).numpy()


set_model(CalibratedClassifier())
