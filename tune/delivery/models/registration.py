"""Models in MLflow's registry."""

from __future__ import annotations

from pathlib import Path

from ssl_core.system.errors import ConfigError
from tune.delivery.models.sending import MODEL_ID
from tune.delivery.refusals import AwayError, RejectedError, judged
from tune.delivery.sender import configure_mlflow
from tune.errors import Exit, ServiceError
from tune.store.event_log import EventLog
from tune.store.study_folder import StudyFolder

ALIAS, MODEL_ID_TAG = "candidate", "ssl.model_id"


def register(events_db: Path, run: str, registered: str) -> str:
    """Register a model that was delivered, with the tags of its study; the alias `candidate` is set to this version.

    Args:
        events_db: the study's event log.
        run: of the model, as the tracker knows it: ``5/confirm-1``.
        registered: the name in the registry.

    Returns:
        The version: of a model that is registered under this name already, the one that it has.

    Raises:
        ConfigError: the model has not been delivered to MLflow, or MLflow refuses the name.
        ServiceError: MLflow does not answer.
    """
    configure_mlflow()
    with EventLog(events_db, read_only=True) as log:
        uri = log.get_meta("tracking_uri")
        key = next((k for k, _ in log.metas(MODEL_ID) if k.endswith(f"/{run}")), None)
        model_id = None if key is None else log.get_meta(key)
    if uri is None or model_id is None:
        raise ConfigError(
            f"the model of {run} is not in MLflow yet. Deliver it with "
            f"`{StudyFolder(events_db.parent).command('sync')}`, then register it."
        )
    try:
        with judged():
            return _registered(uri, model_id, registered)
    except RejectedError as error:
        raise ConfigError(f"--register {registered}: MLflow refuses it: {error}.") from None
    except AwayError as error:
        raise ServiceError(f"MLflow at {uri} does not answer: {error}.", Exit.UNREACHABLE) from None


def _registered(uri: str, model_id: str, registered: str) -> str:
    from mlflow.exceptions import MlflowException  # loads MLflow
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    model = client.get_logged_model(model_id)
    tags = {name: value for name, value in model.tags.items() if name.startswith("ssl.")}
    try:
        client.create_registered_model(registered)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    known = client.search_model_versions(f"name = '{registered}'")
    version = next((each for each in known if each.tags.get(MODEL_ID_TAG) == model_id), None)
    if version is None:
        # A server finds its own model; in this process MLflow would look for it wherever its global setting points.
        source = f"models:/{model_id}" if uri.startswith("http") else model.artifact_location
        version = client.create_model_version(
            registered,
            source,
            run_id=model.source_run_id,
            tags=tags | {MODEL_ID_TAG: model_id},
            model_id=model_id,
        )
    client.set_registered_model_alias(registered, ALIAS, version.version)
    return str(version.version)
