"""Models in MLflow, logged with the run of their training. No pickle: code, weights and a description.

A model that was sent before is found again by its source run and its tag, so that sending it twice changes nothing.
"""

from __future__ import annotations

import io
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import ssl_core
from ssl_core.model.card import Card, read_card
from tune.store.event_log import EventLog
from tune.store.events import Event

KEY_TAG, MODEL_ID = "ssl.model_key", "model_id:"
SERVED = Path(__file__).with_name("served.py")
NEEDED = (
    *("torch", "torchvision", "numpy", "pillow", "pandas", "pydantic", "annotated-types", "pyyaml"),
    *("safetensors", "xxhash"),
)


def send_model(client: Any, log: EventLog, run_id: str, event: Event) -> None:
    """Log the model of an event with its run, its errors as metrics; its id is noted in the log.

    Args:
        client: of MLflow.
        log: the study's event log.
        run_id: of the run in MLflow.
        event: of the kind "model".
    """
    from mlflow.entities import Metric  # loads MLflow

    folder = log.path.absolute().parent / str(event.payload["path"])
    card = read_card(folder)
    experiment, key = log.get_meta("experiment_id") or "", str(event.key)
    found = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    logged = next((model for model in found if model.tags.get(KEY_TAG) == key), None)
    if logged is None:
        tags = {
            name: value for name, value in client.get_run(run_id).data.tags.items() if name.startswith("ssl.")
        }
        logged = client.create_logged_model(
            experiment,
            name=folder.name,
            source_run_id=run_id,
            tags=tags | {KEY_TAG: key},
            params={"network": card.network.name, "method": card.method, "image_size": str(card.image.size)},
            model_type="classifier",
        )
    if str(logged.status) != "READY":
        with tempfile.TemporaryDirectory(prefix="ssl-tune-") as place:
            write_mlflow_model(folder, card, Path(place, "model"))
            client.log_model_artifacts(logged.model_id, str(Path(place, "model")))
        client.finalize_logged_model(logged.model_id, "READY")
    # The points that the run has already, with the model's id: MLflow keeps an equal point once.
    reports = log.reports(event.run)
    time_ms, step = (reports[-1].time_ms, reports[-1].epoch) if reports else (event.time_ms, card.epochs)
    points = [
        Metric(name, value, time_ms, step, model_id=logged.model_id)
        for name, value in errors_of(card).items()
    ]
    client.log_batch(run_id, metrics=points)
    log.set_meta(MODEL_ID + event.run, logged.model_id)


def errors_of(card: Card) -> dict[str, float]:
    """What a model's errors are called in MLflow."""
    found: dict[str, float] = {}
    for name, measured in (("val", card.validation), ("test", card.test)):
        if measured is not None:
            found[f"{name}/error"] = measured.error
            if measured.error_balanced is not None:
                found[f"{name}/error_balanced"] = measured.error_balanced
    if card.calibration is not None:
        found["calibration/expected_error"] = card.calibration.expected_calibration_error
    return found


def write_mlflow_model(folder: Path, card: Card, target: Path) -> None:
    """A model's folder as a model of MLflow's, which `mlflow models serve` and `mlflow.pyfunc.load_model` take.

    Args:
        folder: of the model.
        card: its card.
        target: a folder that does not exist.
    """
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    outputs: list[Any] = [
        ColSpec("string", "label", required=False),
        ColSpec("double", "confidence", required=False),
        ColSpec("double", "confidence_raw", required=False),
        ColSpec("string", "error", required=False),
    ]
    mlflow.pyfunc.save_model(
        str(target),
        python_model=str(SERVED),
        artifacts={"model": str(folder)},
        code_paths=[str(Path(ssl_core.__file__).parent)],
        pip_requirements=[
            f"{name}=={metadata.version(name).partition('+')[0]}" for name in ("mlflow", *NEEDED)
        ],
        signature=ModelSignature(Schema([ColSpec("binary", "image")]), Schema(outputs)),
        input_example=pd.DataFrame({"image": [_example(card)]}),
        metadata={"classes": list(card.classes), "format": card.format},
    )


def _example(card: Card) -> bytes:
    """A grey image as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (card.image.size, card.image.size), "grey").save(buffer, "PNG")
    return buffer.getvalue()
