"""MLflow, where a run asks for it: its parameters, figures and files, and models by name and alias. Knows no method.

The server is the one that MLflow itself finds (MLFLOW_TRACKING_URI, MLFLOW_REGISTRY_URI). A model is plain files beside
an MLmodel that says what goes in and what comes out; nothing is pickled, nothing that was loaded is run.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHALLENGER = "challenger"  # what MLflow calls the candidate beside the champion
NO_ALIAS = "none"
MODEL = "model"  # the folder of a run's artifacts that a registered version is made from
AT_ONCE = 100  # parameters or tags in one call; ten times as many figures
# Ours, where the user says nothing: with MLflow's own seven tries a server that is down is told after four minutes.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout belongs to --json
}
_MODEL_URI = re.compile(r"models:/+([^/@:]+)(?:/(\d+)|@([\w-]+))")
_MODEL_NAME = re.compile(r"[^/:@'\"\s](?:[^/:@'\"]*[^/:@'\"\s])?")
_ALIAS = re.compile(r"(?!latest$)(?!v\d+$)[\w-]{1,255}", re.IGNORECASE | re.ASCII)
_UNNAMEABLE = re.compile(r"[^\w\-. /]", re.ASCII)


@dataclass(frozen=True)
class Registered:
    """A version of a registered model; registry: the address of the registry, without a password."""

    name: str
    version: str
    registry: str
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"


# -- settings ----------------------------------------------------------------------------------------------------------


def check_settings(experiment: str | None, model: str | None, alias: str) -> None:
    """Refuse, with the options' own names, what MLflow would refuse hours later."""
    if model is not None and experiment is None:
        raise InputError("--mlflow-model needs the run that the model comes from: name its experiment with --mlflow")
    if model is not None and not _MODEL_NAME.fullmatch(model):
        raise InputError(f"--mlflow-model must be a name without / : @ and quotation marks; got {model!r}")
    if not _ALIAS.fullmatch(alias):
        raise InputError(
            f"--mlflow-alias must be of letters, digits, - and _, not `latest` and not v1, v2, ...; got {alias!r}"
        )


def is_model_uri(uri: str) -> bool:
    """Whether that is meant to be a model of a registry."""
    return uri.startswith("models:")


def check_model_uri(uri: str) -> None:
    """InputError unless `uri` names one version of a model, by number or alias."""
    if not _MODEL_URI.fullmatch(uri):
        raise InputError(f"{uri!r} names no version: a registered model is models:/NAME/VERSION or models:/NAME@ALIAS")


# -- a run -------------------------------------------------------------------------------------------------------------


class Tracked:
    """A run of MLflow's under way: what is logged goes to it."""

    def __init__(self, client: MlflowClient, experiment: str, run_id: str, artifacts: str) -> None:
        self._client, self.experiment, self.run_id, self._artifacts = client, experiment, run_id, artifacts

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log settings; one that isn't set is left out, a list is joined."""
        from mlflow.entities import Param

        said = {name: ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
                for name, value in values.items()}  # fmt: skip
        params = [Param(name, str(value)) for name, value in said.items() if value not in (None, "")]
        for some in _parts(params, AT_ONCE):
            self._client.log_batch(self.run_id, params=some)

    def figures(self, values: Mapping[str, Any]) -> None:
        """Log every number that `numbers` finds."""
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        metrics = [Metric(name, value, now, 0) for name, value in numbers(values).items()]
        for some in _parts(metrics, 10 * AT_ONCE):
            self._client.log_batch(self.run_id, metrics=some)

    def tags(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            self._client.set_tag(self.run_id, name, value)

    def file(self, path: str | Path, folder: str | None = None) -> None:
        self._client.log_artifact(self.run_id, str(path), folder)

    def text(self, text: str, name: str) -> None:
        self._client.log_text(self.run_id, text, name)

    def object(self, values: Mapping[str, Any], name: str) -> None:
        """Log an object as a file of JSON."""
        self.text(json.dumps(values, indent=2, default=str), name)

    def model(
        self,
        files: Mapping[str, str | Path],
        *,
        inputs: Mapping[str, str],
        outputs: Mapping[str, str],
        about: Mapping[str, Any],
        name: str | None = None,
        alias: str = NO_ALIAS,
        identity: Mapping[str, str],
        tags: Mapping[str, str],
    ) -> tuple[Registered | None, bool]:
        """Log a model's files, registered as a version of `name` where that is given; (the version, whether it is new).

        identity: tags by which a version that has them is the same model: then it is that one, and no file is sent
        again. `alias` leads to the version from now on. files: name in the model -> file; inputs, outputs: name ->
        MLflow's type; about: what MLmodel says of the model besides; tags: of a new version, besides its identity.
        """
        there = None if name is None else _find(self._client, name, identity)
        if there is None:
            with tempfile.TemporaryDirectory(prefix="mlflow-") as folder:
                for target, source in files.items():
                    place = Path(folder, target)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, place)
                _write_mlmodel(folder, inputs, outputs, about)
                self._client.log_artifacts(self.run_id, folder, MODEL)
        if name is None:
            return None, True
        new = there is None
        if there is None:
            _make_model(self._client, name)
            made = self._client.create_model_version(
                name, f"{self._artifacts}/{MODEL}", run_id=self.run_id, tags={**tags, **identity}
            )
            there = _registered(self._client, made)
        if alias != NO_ALIAS:
            self._client.set_registered_model_alias(name, alias, there.version)
        return there, new


@contextlib.contextmanager
def tracked(
    experiment: str | None, *, name: str, tags: Mapping[str, str], parameters: Mapping[str, Any],
    warn: Callable[[str], None], model: str | None = None,
) -> Iterator[Tracked | None]:  # fmt: skip
    """A run of MLflow's around the body: finished, failed or killed as the body is; None where no experiment is named.

    InputError before the body where MLflow can't be used, the registry included if there is to be a model. Once the
    body has begun, trouble with MLflow is a warning: what the body does counts.
    """
    if experiment is None:
        yield None
        return
    client = connect()
    with mlflow_errors(client, "begin a run"):
        if model is not None:
            _there(client, model)
        run = _begin(client, experiment, name, tags)
        this = Tracked(client, experiment, run.info.run_id, run.info.artifact_uri)
        this.parameters(parameters)
    ended = "FINISHED"
    try:
        yield this
    except KeyboardInterrupt:
        ended = "KILLED"
        raise
    except BaseException as error:
        ended = "FAILED"
        if isinstance(error, InputError):
            with warned(warn):
                this.tags({"error": str(error)[:5000]})
        raise
    finally:
        with warned(warn):
            client.set_terminated(run.info.run_id, status=ended)


@contextlib.contextmanager
def warned(warn: Callable[[str], None]) -> Iterator[None]:
    """The run's work is in the tables when this begins: where MLflow fails, say so and go on."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        warn(f"everything is written, but MLflow lacks it: {_reason(error)}; the same command again logs it")


def _begin(client: MlflowClient, experiment: str, name: str, tags: Mapping[str, str]) -> Any:
    from mlflow.tracking.context import registry

    found = client.get_experiment_by_name(experiment)
    if found is not None and found.lifecycle_stage != "active":
        raise InputError(f"--mlflow {experiment}: the experiment was deleted; restore it or name another")
    experiment_id = client.create_experiment(experiment) if found is None else found.experiment_id
    # Who runs what where, as MLflow's own runs say it.
    return client.create_run(experiment_id, run_name=name, tags=registry.resolve_tags(dict(tags)))


# -- models ------------------------------------------------------------------------------------------------------------


def resolve(uri: str) -> Registered:
    """The version that models:/NAME/VERSION or models:/NAME@ALIAS names now."""
    check_model_uri(uri)
    client = connect()
    found = _MODEL_URI.fullmatch(uri)
    assert found is not None
    name, version, alias = found.groups()
    with mlflow_errors(client, f"find {uri}"):
        try:
            if version is None:
                version = client.get_model_version_by_alias(name, alias).version
            return _registered(client, client.get_model_version(name, str(version)))
        except Exception as error:
            if not _says_missing(error):
                raise
            raise InputError(f"{uri}: {_shown(_registry(client))} has no such model, version or alias") from error


def download(version: Registered, folder: str | Path) -> Path:
    """The files of a version, in a folder; what they hold is checked by whoever reads them."""
    client = connect()
    with mlflow_errors(client, f"fetch {version.uri}"):
        from mlflow.artifacts import download_artifacts

        return Path(download_artifacts(artifact_uri=version.uri, dst_path=str(folder)))


def _find(client: MlflowClient, name: str, tags: Mapping[str, str]) -> Registered | None:
    """The newest version of a model with these tags."""
    if not _there(client, name):
        return None
    found, token = [], None
    while True:
        page = client.search_model_versions(f"name='{name}'", max_results=200, page_token=token)
        found += list(page)
        token = page.token
        if not token:
            break
    for each in sorted(found, key=lambda each: int(each.version), reverse=True):
        # Unity Catalog tells tags only when asked for a version by itself.
        version = _registered(client, each if each.tags else client.get_model_version(name, str(each.version)))
        if tags.items() <= version.tags.items():
            return version
    return None


def _registered(client: MlflowClient, found: Any) -> Registered:
    return Registered(found.name, str(found.version), _shown(_registry(client)), dict(found.tags))


def _there(client: MlflowClient, name: str) -> bool:
    """Whether a registered model of that name is there."""
    try:
        client.get_registered_model(name)
    except Exception as error:
        if _says_missing(error):
            return False
        raise
    return True


def _make_model(client: MlflowClient, name: str) -> None:
    if not _there(client, name):
        client.create_registered_model(name)


def _write_mlmodel(
    folder: str, inputs: Mapping[str, str], outputs: Mapping[str, str], about: Mapping[str, Any]
) -> None:
    """MLmodel, which Unity Catalog asks of every version: with a signature, and no flavor that MLflow could load."""
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema

    def schema(columns: Mapping[str, str]) -> Schema:
        return Schema([ColSpec(kind, name) for name, kind in columns.items()])

    signature = ModelSignature(schema(inputs), schema(outputs))
    Model(flavors={"betr_bare": dict(about)}, signature=signature).save(str(Path(folder, "MLmodel")))


# -- MLflow itself -----------------------------------------------------------------------------------------------------


def connect() -> MlflowClient:
    """MLflow's client for the server that MLflow itself finds; nothing is sent yet."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import mlflow
    except ImportError:
        raise MissingExtraError("MLflow", "mlflow") from None
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    uri = mlflow.get_tracking_uri()
    try:
        return mlflow.MlflowClient()
    except Exception as error:  # of a store that needs more than is installed, or that MLflow no longer serves
        raise InputError(f"MLflow can't use {_shown(uri)}: {_reason(error)}") from error


@contextlib.contextmanager
def mlflow_errors(client: MlflowClient, purpose: str) -> Iterator[None]:
    """Turn what MLflow raises into one sentence; put nothing but MLflow's calls into the body."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"MLflow at {_shown(client.tracking_uri)} can't {purpose}: {_reason(error)} (MLFLOW_TRACKING_URI says "
            "which server; without --mlflow none is needed)"
        ) from error


def numbers(values: Mapping[str, Any] | Sequence[Any], prefix: str = "") -> dict[str, float]:
    """Every number in a nested object by its path, as MLflow's figures are named: a.b.c; no booleans, no texts."""
    pairs: Iterable[tuple[Any, Any]] = values.items() if isinstance(values, Mapping) else enumerate(values)
    found: dict[str, float] = {}
    for name, value in pairs:
        path = f"{prefix}{_UNNAMEABLE.sub('_', str(name))}"
        if isinstance(value, Mapping | list | tuple):
            found |= numbers(value, f"{path}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[path] = float(value)
    return found


def _registry(client: MlflowClient) -> str:
    import mlflow

    return mlflow.get_registry_uri() or client.tracking_uri


def _shown(uri: str) -> str:
    """An address without who logs in there."""
    return re.sub(r"(?<=://)[^/@]*@", "", uri)


def _reason(error: BaseException) -> str:
    """The first sentence of what an error says, without its full stop."""
    if "Max retries exceeded" in str(error):
        return "it doesn't answer"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = re.split(r"(?<=[.!?])\s", (lines or [type(error).__name__])[0])[0]
    return _shown(first[:300]).rstrip(".")


def _says_missing(error: BaseException) -> bool:
    """RESOURCE_DOES_NOT_EXIST; a file store says of an alias that isn't there INVALID_PARAMETER_VALUE."""
    code = getattr(error, "error_code", "")
    return code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND") or (
        code == "INVALID_PARAMETER_VALUE" and "alias" in str(error) and "not found" in str(error)
    )


def _parts(values: Sequence[Any], most: int) -> Iterator[list[Any]]:
    for start in range(0, len(values), most):
        yield list(values[start : start + most])
