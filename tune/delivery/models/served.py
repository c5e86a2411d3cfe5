"""The code of a model in MLflow: image files in, labels and confidences out. MLflow keeps a copy beside the weights.

It needs `ssl_core` alone, whose source lies beside it in the model, and no pickle.
"""

from __future__ import annotations

from typing import Any

import mlflow.pyfunc
from mlflow.models import set_model


class ImageClassifier(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined,misc]
    """Column `image`, the bytes of an image file (base64 in JSON), to `label`, `confidence` and others."""

    def load_context(self, context: Any) -> None:
        """Load the model's folder."""
        import ssl_core  # loads torch

        self.model = ssl_core.load(context.artifacts["model"], threads=0)

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """A row for each image: label, confidence, confidence_raw, and error where it cannot be read."""
        table = self.model.predict(list(model_input["image"])).drop(columns="file").astype(object)
        return table.where(table.notna(), None)  # JSON knows no NaN


set_model(ImageClassifier())
