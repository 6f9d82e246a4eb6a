"""What MLflow gets of a run, in a store in a folder; what is said where it can't be had; a classifier by its alias."""

import hashlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.sql import SparkSession

from bare import pipeline as bare_pipeline
from betr import pipeline, stages, tracked
from betr.run import Outcome
from betr.tables import CLASSIFIERS
from curation import tracking
from curation.errors import InputError, MissingExtraError
from curation.tables import Tables
from tests.bare_house import config
from tests.helpers import commits, settings

pytest.importorskip("mlflow", reason="the extra mlflow isn't installed")


def stored_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """MLflow's environment: a store in that folder."""
    for name, value in tracking.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    uri = f"file://{folder / 'mlruns'}"
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 no longer develops it; a test needs no more
    return uri


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return stored_in(tmp_path, monkeypatch)


def track(warnings: list[str] | None = None, **changed: Any) -> Any:
    told = [] if warnings is None else warnings
    given = {"name": "a run", "tags": {"program": "test"}, "parameters": {}, "warn": told.append, **changed}
    return tracking.tracked(given.pop("experiment", "nights"), **given)


def registered(
    file: Path, text: str, alias: str = "challenger", name: str | None = "betr"
) -> tuple[tracking.Registered | None, bool, str]:
    """A model that is one file, its version, whether that is new, the run that it was logged in."""
    file.write_text(text)
    with track(model=name) as run:
        version, new = run.model(
            {"classifier.safetensors": file, "heads/one.safetensors": file},
            inputs={"text": "string"},
            outputs={"score": "double"},
            about={"sha256": "x"},
            name=name,
            alias=alias,
            identity={"sha256": hashlib.sha256(text.encode()).hexdigest()},
            tags={"classifier_id": text},
        )
    return version, new, run.run_id


def artifacts(run_id: str, folder: str | None = None) -> set[str]:
    return {each.path for each in tracking.connect().list_artifacts(run_id, folder)}


def the_run(experiment: str) -> Any:
    """The newest run of an experiment."""
    client = tracking.connect()
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return client.search_runs([found.experiment_id], order_by=["attributes.start_time DESC"])[0]


# -- a run -------------------------------------------------------------------------------------------------------------


def test_a_run_has_its_settings_figures_tags_and_files(store: str, tmp_path: Path) -> None:
    many = {f"p{i}": i for i in range(250)}  # more than one call takes
    given = {**many, "keep": 0.1, "by": ("metadata.a", "metadata.b"), "flops": None, "head": "", "quota": ()}
    page = tmp_path / "page.html"
    page.write_text("<p>kept</p>")
    with track(parameters=given) as run:
        run.figures({"selection": {"kept": 3, "id": "x"}, "stage": [{"seconds": 1.5}]})
        run.file(page)
        run.object({"at": page}, "report.json")
        run.tags({"generation": "g"})
    found = the_run("nights")
    assert found.info.status == "FINISHED" and found.info.run_name == "a run"
    wanted = {name: str(value) for name, value in many.items()}
    assert found.data.params == {**wanted, "keep": "0.1", "by": "metadata.a, metadata.b"}
    assert found.data.metrics == {"selection.kept": 3.0, "stage.0.seconds": 1.5}
    assert {"program": "test", "generation": "g"}.items() <= found.data.tags.items()
    assert artifacts(run.run_id) == {"page.html", "report.json"}


def test_every_number_is_a_figure_under_its_path_and_nothing_else_is() -> None:
    nested = {"a": {"b": 1, "it's: odd": 2.5}, "c": [3, {"d": 4}], "text": "5", "yes": True, "none": None, "e": {}}
    assert tracking.numbers(nested) == {"a.b": 1.0, "a.it_s_ odd": 2.5, "c.0": 3.0, "c.1.d": 4.0}


def test_no_experiment_is_no_run_and_needs_no_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with track(experiment=None) as run:
        assert run is None
    with pytest.raises(MissingExtraError, match=r"MLflow needs the extra 'mlflow'.*pip install 'betr-bare\[mlflow\]'"), track():
        pytest.fail("the body has begun")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [(InputError("no such file"), "FAILED", "no such file"), (KeyboardInterrupt(), "KILLED", None), (OSError(), "FAILED", None)],
)
def test_a_run_ends_as_its_body_does(store: str, error: BaseException, status: str, said: str | None) -> None:
    with pytest.raises(type(error)), track():
        raise error
    found = the_run("nights")
    assert found.info.status == status and found.data.tags.get("error") == said


# -- MLflow that can't be had ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (
            "http://me:secret@127.0.0.1:9",
            r"^MLflow at http://127.0.0.1:9 can't begin a run: it doesn't answer \(MLFLOW_TRACKING_URI says which server; "
            r"without --mlflow none is needed\)$",
        ),
        ("gopher://somewhere", r"^MLflow can't use gopher://somewhere: "),
    ],
)
def test_a_server_that_is_not_there_is_told_before_the_work(
    store: str, monkeypatch: pytest.MonkeyPatch, uri: str, said: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match=said), track():
        pytest.fail("the body has begun")


def test_a_deleted_experiment_is_refused_by_name(store: str) -> None:
    client = tracking.connect()
    client.delete_experiment(client.create_experiment("nights"))
    with pytest.raises(InputError, match="--mlflow nights: the experiment was deleted; restore it or name another"), track():
        pytest.fail("the body has begun")


def test_trouble_after_the_work_is_a_warning(store: str, tmp_path: Path) -> None:
    warnings: list[str] = []
    with track(warnings) as run:
        shutil.rmtree(tmp_path / "mlruns")
        with tracking.warned(warnings.append):
            run.figures({"kept": 1})
        worked = True
    assert worked and len(warnings) == 2  # the figures, and the end
    assert all(each.startswith("everything is written, but MLflow lacks it: ") for each in warnings)
    assert all(each.endswith("; the same command again logs it") for each in warnings)


# -- models ------------------------------------------------------------------------------------------------------------


def test_the_same_files_are_one_version_and_the_alias_follows_the_run(store: str, tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    versions = [registered(file, text) for text in ("first", "first", "second", "first")]
    assert [(v.uri if v else None, new) for v, new, _ in versions] == [
        ("models:/betr/1", True), ("models:/betr/1", False), ("models:/betr/2", True), ("models:/betr/1", False),
    ]  # fmt: skip
    assert [bool(artifacts(run_id)) for *_, run_id in versions] == [True, False, True, False]  # no file is sent again
    assert tracking.resolve("models:/betr@challenger").version == "1"


def test_no_alias_moves_where_none_is_wanted(store: str, tmp_path: Path) -> None:
    registered(tmp_path / "c", "first")
    assert registered(tmp_path / "c", "second", alias="none")[1]
    assert tracking.resolve("models:/betr@challenger").version == "1"


def test_a_version_comes_back_whole_by_number_and_by_alias(store: str, tmp_path: Path) -> None:
    from mlflow.models import Model

    registered(tmp_path / "c", "the classifier")
    by_alias, by_number = tracking.resolve("models:/betr@challenger"), tracking.resolve("models:/betr/1")
    assert by_alias == by_number and by_alias.registry == store
    assert by_alias.tags["classifier_id"] == "the classifier"
    folder = tracking.download(by_alias, tmp_path / "back")
    assert (folder / "classifier.safetensors").read_text() == (folder / "heads" / "one.safetensors").read_text()
    assert (folder / "classifier.safetensors").read_text() == "the classifier"
    # What Unity Catalog asks of a version, and nothing that MLflow would load or run.
    mlmodel = Model.load(str(folder))
    assert mlmodel.signature.inputs.to_dict() == [{"type": "string", "name": "text", "required": True}]
    assert mlmodel.signature.outputs.to_dict() == [{"type": "double", "name": "score", "required": True}]
    assert mlmodel.flavors == {"betr_bare": {"sha256": "x"}}


def test_without_a_name_the_files_are_logged_and_nothing_is_registered(store: str, tmp_path: Path) -> None:
    version, _, run_id = registered(tmp_path / "c", "x", name=None)
    assert version is None and not tracking.connect().search_registered_models()
    assert artifacts(run_id, "model") == {"model/MLmodel", "model/classifier.safetensors", "model/heads"}


@pytest.mark.parametrize("uri", ["models:/betr@champion", "models:/betr/7", "models:/other/1", "models:/other@champion"])
def test_a_version_that_is_not_there_is_told(store: str, tmp_path: Path, uri: str) -> None:
    registered(tmp_path / "c", "first")
    with pytest.raises(InputError, match="has no such model, version or alias") as raised:
        tracking.resolve(uri)
    assert str(raised.value).startswith(f"{uri}: {store}")


def test_a_registry_that_tells_no_tags_in_a_search_is_asked_for_each_version() -> None:
    """Unity Catalog."""

    def version(number: int, tags: dict[str, str]) -> Any:
        return SimpleNamespace(name="main.betr.c", version=number, tags=tags)

    class Catalog:
        tracking_uri = "databricks"

        def get_registered_model(self, name: str) -> None:
            assert name == "main.betr.c"

        def search_model_versions(self, condition: str, max_results: int, page_token: str | None) -> Any:
            assert condition == "name='main.betr.c'"
            numbers, token = {None: ((9, 10), "more"), "more": ((8,), None)}[page_token]

            class Page(list[Any]):
                pass

            page = Page(version(number, {}) for number in numbers)
            page.token = token  # type: ignore[attr-defined]
            return page

        def get_model_version(self, name: str, number: str) -> Any:
            return version(int(number), {"sha256": "same" if int(number) < 10 else "other", "more": "x"})

    found = tracking._find(Catalog(), "main.betr.c", {"sha256": "same"})  # type: ignore[arg-type]
    assert found is not None and found.uri == "models:/main.betr.c/9"  # the newest of them
    assert tracking._find(Catalog(), "main.betr.c", {"sha256": "none"}) is None  # type: ignore[arg-type]


@pytest.mark.night
@pytest.mark.slow
def test_the_store_that_mlflow_takes_where_nothing_is_said_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored_in(tmp_path, monkeypatch)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    version, new, _ = registered(tmp_path / "c", "first")
    assert version is not None and new and (tmp_path / "mlflow.db").is_file()
    assert tracking.resolve("models:/betr@challenger") == version
    with pytest.raises(InputError, match="has no such model, version or alias"):
        tracking.resolve("models:/betr@champion")


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"mlflow_model": "betr"}, "--mlflow-model needs the run that the model comes from: name its experiment with --mlflow"),
        ({"mlflow": "x", "mlflow_model": "a/b"}, "--mlflow-model must be a name without / : @ and quotation marks; got 'a/b'"),
        (
            {"mlflow_alias": "v1"},
            "--mlflow-alias must be of letters, digits, - and _, not `latest` and not v1, v2, ...; got 'v1'",
        ),
        ({"mlflow_alias": "Latest"}, "not `latest` and not v1, v2, ...; got 'Latest'"),
        ({"classifier": "a.safetensors", "heads": True}, "--classifier and --heads exclude each other: what is given is one classifier"),
        ({"classifier": "a.safetensors", "import_fasttext": "b.bin"}, "--classifier and --import-fasttext exclude each other"),
        (
            {"classifier": "models:/betr"},
            "'models:/betr' names no version: a registered model is models:/NAME/VERSION or models:/NAME@ALIAS",
        ),
        (
            {"classifier": "models:/betr@champion", "mlflow": "x", "mlflow_model": "betr"},
            "--mlflow-model: models:/betr@champion is registered already; leave one of the two out",
        ),
    ],
)
def test_settings_that_mlflow_would_refuse_are_refused_first(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as raised:
        settings(tmp_path, **changed)
    assert said in str(raised.value)


def test_a_classifier_that_betr_did_not_register_is_refused(store: str) -> None:
    client = tracking.connect()
    client.create_registered_model("theirs")
    client.create_model_version("theirs", store)
    with pytest.raises(InputError, match="--classifier models:/theirs/1: models:/theirs/1 has no tag sha256, so betr didn't"):
        stages.given_classifier("models:/theirs/1")
    with pytest.raises(InputError, match=r"--classifier gone can't be read .*; give a \.safetensors file of betr's"):
        stages.given_classifier("gone")


# -- a classifier with heads ------------------------------------------------------------------------------------------


class FakeRun:
    """As much of a run of BETR's as MLflow's log looks at: a classifier with heads, no selection, no Spark."""

    def __init__(self, folder: Path, heads: dict[str, str], **changed: Any) -> None:
        self.config = settings(folder, mlflow="nights", mlflow_model="betr", **changed)
        self.run_id, self.tables = "run-1", SimpleNamespace(root=str(folder))
        self.lines: list[str] = []
        self.warnings: list[str] = []
        self.terminal, self.warn = SimpleNamespace(line=self.lines.append), self.warnings.append
        files = {"": "for all", **heads}
        records = {head: self.record(folder, f"{head or 'all'}.safetensors", text) for head, text in files.items()}
        measures = dict.fromkeys(tracked.RECORDED, 0.5)
        values = {**records.pop(""), **measures, "encoder_id": "e", "token_counter": "none", "heads": records}
        self.trained = Outcome("train", "c1", values)

    def record(self, folder: Path, name: str, text: str) -> dict[str, str]:
        (folder / name).write_text(text)
        return {"path": name, "sha256": hashlib.sha256(text.encode()).hexdigest()}

    def now(self, stage: str) -> Outcome | None:
        return self.trained if stage == "train" else None

    def log(self) -> dict[str, Any]:
        found: dict[str, Any] = {"selection": None, "classifier": {"heads": {"arc": {"auc": 0.8}}}, "drift": [], "stages": [],
                 "rejected": {}, "duplicates": 0, "warnings": []}  # fmt: skip
        with tracked.tracked(self, "train") as this:  # type: ignore[arg-type]
            return tracked.log(self, this, found)  # type: ignore[arg-type]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(classifier_id, version) as they are written into `classifiers`."""
    found: list[tuple[str, str]] = []
    monkeypatch.setattr(stages, "record_version", lambda _, classifier_id, version: found.append((classifier_id, version.uri)))
    return found


def test_a_classifier_and_its_heads_are_one_version_and_other_heads_are_another(
    store: str, tmp_path: Path, recorded: list[tuple[str, str]]
) -> None:
    of_two = {"arc": "one head", "boolq": "another"}
    runs = [FakeRun(tmp_path, heads) for heads in (of_two, of_two, {}, {"arc": "one head", "boolq": "a third"})]
    models = [run.log()["mlflow"]["model"] for run in runs[:3]]
    assert models == ["models:/betr/1", "models:/betr/1", "models:/betr/2"]
    assert recorded == [("c1", model) for model in models]
    assert "MLflow: new models:/betr/1, now @challenger" in runs[0].lines
    assert "MLflow: the same classifier as models:/betr/1, now @challenger" in runs[1].lines
    found = the_run("nights")
    assert found.data.metrics["classifier.heads.arc.auc"] == 0.8 and found.data.params["epochs"] == "100"
    folder = tracking.download(tracking.resolve("models:/betr/1"), tmp_path / "back")
    texts = {path.name: path.read_text() for path in (folder / "heads").iterdir()}
    assert texts["arc.safetensors"] == "one head" and set(texts) == {"arc.safetensors", "boolq.safetensors"}
    assert (folder / stages.REGISTERED_FILE).read_text() == "for all"
    assert runs[3].log()["mlflow"]["model"] == "models:/betr/3"


def test_a_registry_that_fails_after_the_work_leaves_a_warning_and_no_version(
    store: str, tmp_path: Path, recorded: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient, MlflowException

    def refuse(*_: Any, **__: Any) -> None:
        raise MlflowException("PERMISSION_DENIED: User lacks CREATE MODEL on Schema 'main.betr'. Ask its owner.")

    monkeypatch.setattr(MlflowClient, "create_model_version", refuse)
    run = FakeRun(tmp_path, {})
    assert run.log()["mlflow"]["model"] is None and not recorded
    assert run.warnings == [
        "everything is written, but MLflow lacks it: PERMISSION_DENIED: User lacks CREATE MODEL on Schema 'main.betr'; "
        "the same command again logs it"
    ]
    assert the_run("nights").info.status == "FINISHED"


# -- whole runs --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_is_logged_and_its_classifier_registered_once_recorded_and_taken_back(
    finished: tuple[Path, dict[str, Any]], spark: SparkSession, store: str, tmp_path: Path
) -> None:
    folder, report = finished
    shutil.copytree(folder / "tables", tmp_path / "tables")
    page = tmp_path / "page.html"
    page.write_text("of before")  # nothing has changed since: it stays, and is what is logged

    def config(**changed: Any) -> Any:
        return settings(folder, tables=str(tmp_path / "tables"), page=str(page), **changed)

    def rows() -> dict[str, Any]:
        found = Tables(spark, str(tmp_path / "tables")).read(CLASSIFIERS).collect()
        return {row["classifier_id"]: row for row in found}

    (before,) = rows().values()
    assert before["registered_as"] is None
    logged = pipeline.run(config(mlflow="nights", mlflow_model="betr"), spark=spark)
    assert logged["mlflow"]["model"] == "models:/betr/1" and not logged["warnings"]
    run = the_run("nights")
    assert run.info.run_id == logged["mlflow"]["run_id"] and run.info.run_name == logged["run_id"]
    assert run.data.params["keep"] == "0.25" and run.data.tags["registered_as"] == "models:/betr/1"
    metrics = run.data.metrics
    assert metrics["selection.kept_tokens"] == report["selection"]["kept_tokens"]
    assert metrics["selection.kept_share"] == pytest.approx(0.25, abs=0.01)
    assert metrics["classifier.auc"] == report["classifier"]["auc"]
    assert {"coverage.arc_easy.median", "stage.score.rows_out", "duplicates"} <= metrics.keys()
    assert artifacts(run.info.run_id) == {"page.html", "settings.json", "report.json", "model"}
    (row,) = rows().values()
    assert row.asDict() | {"registered_as": None, "registry": None} == before.asDict()
    assert (row["registered_as"], row["registry"]) == ("models:/betr/1", store)

    written = commits(tmp_path / "tables" / "classifiers")
    again = pipeline.run_stage("select", config(mlflow="nights", mlflow_model="betr"), spark=spark)
    assert again["mlflow"]["model"] == "models:/betr/1" and commits(tmp_path / "tables" / "classifiers") == written
    assert len(tracking.connect().search_model_versions("name='betr'")) == 1

    given = {"classifier": "models:/betr@challenger"}
    taken = pipeline.run_stage("train", config(**given), spark=spark)["classifier"]
    back = rows()[taken["classifier_id"]]
    assert back["classifier_id"] != before["classifier_id"] and back["sha256"] == before["sha256"]
    assert back["origin"] == back["registered_as"] == "models:/betr/1" and back["training_documents"] == 0
    assert (back["auc"], back["log_loss"]) == (before["auc"], before["log_loss"])  # validated like any other
    tracking.connect().set_registered_model_alias("betr", "champion", "1")
    same = pipeline.run_stage("train", config(classifier="models:/betr@champion"), spark=spark)
    assert same["stages"][0]["state"] == "unchanged" and same["classifier"] == taken
    from_file = {"classifier": str(tmp_path / "tables" / before["path"])}
    assert pipeline.run_stage("train", config(**from_file), spark=spark)["classifier"] == taken


@pytest.mark.night
@pytest.mark.slow
def test_a_generation_is_logged_with_its_page_and_card(
    generated: tuple[dict[str, Any], dict[str, Any]], spark: SparkSession, store: str, tmp_path: Path
) -> None:
    made, report = generated
    shutil.copytree(made["tables"], tmp_path / "tables")
    logged = bare_pipeline.run(config(made, tables=str(tmp_path / "tables"), mlflow="rows"), spark=spark)
    run = the_run("rows")
    assert logged["mlflow"] == {"experiment": "rows", "run_id": run.info.run_id} and not logged["warnings"]
    assert run.data.params["accepted"] == "16" and run.data.tags["generation_id"] == report["generation_id"]
    metrics = run.data.metrics
    assert metrics["accepted"] == report["accepted"] and metrics["drafts"] == report["drafts"]
    assert metrics["measure.mean_cosine.value"] == report["measures"]["mean_cosine"]
    assert metrics["measure.mean_cosine.low"] <= metrics["measure.mean_cosine.value"]
    assert {f"rejected.{reason}": count for reason, count in report["rejected"].items()}.items() <= metrics.items()
    page = f"generation-{report['generation_id']}.html"
    assert artifacts(run.info.run_id) == {page, "README.md", "settings.json", "report.json"}
    card = tracking.connect().download_artifacts(run.info.run_id, "README.md", str(tmp_path))
    assert Path(card).read_text(encoding="utf-8").startswith("---\n")


def test_a_command_takes_the_options_that_its_work_is_logged_by() -> None:
    from bare import cli as bare_cli
    from betr import cli

    def takes(build: Callable[[], Any], *words: str) -> bool:
        try:
            build().parse_args([*words, "--tables", "t", "--mlflow", "nights"])
        except SystemExit:
            return False
        return True

    logged = [["run"], ["train"], ["select"], ["watch"], ["report", "--out", "x"]]
    assert all(takes(cli.build_parser, *words) for words in logged)
    assert takes(bare_cli.build_parser, "run") and not takes(bare_cli.build_parser, "draft")
    assert not takes(cli.build_parser, "import")
