"""Files for Docker, Kubernetes, Databricks, Airflow and cron: what can be known of them on a machine that has none of these."""

import ast
import base64
import csv
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser

import bare.cli
import betr.cli
import evaluation.cli
from bare.config import BareConfig
from betr.config import RunConfig
from betr.run import STAGE_ORDER
from curation.command import read_config
from curation.tables import LEASE_SECONDS, is_catalog_name
from deploy.databricks.wheel import without_spark
from evaluation.config import EvaluationConfig, RoiConfig

ROOT = Path(__file__).resolve().parent.parent
DEPLOY, DOCKER = ROOT / "deploy", ROOT / "docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMAGE = f"betr-bare:{PROJECT['version']}"
COMPOSE = ("compose.yaml", "compose.gpu.yaml")
NEED_GPU = {"embed", "write", "compare"}  # tasks of the bundle

Command = tuple[str, list[str]]  # betr, bare or evaluate, and its arguments


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


# -- command lines -----------------------------------------------------------------------------------------------------


@cache
def parser(program: str) -> ArgumentParser:
    return {"betr": betr.cli, "bare": bare.cli, "evaluate": evaluation.cli}[program].build_parser()


def settled(value: str, variables: dict[str, str]) -> str:
    """The value with something in the place of each variable: what is declared, its default, else a 1."""
    value = re.sub(r"\$\{var\.(\w+)\}", lambda found: variables[found[1]], value)
    value = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)
    return re.sub(r"\$\{[^}]*\}|\$\w+|\{\{[^}]*\}\}", "x1", value) if "$" in value or "{{" in value else value


def commands_of(words: list[str], variables: dict[str, str] | None = None) -> Iterator[Command]:
    """`betr STAGE ...`, or a script of jobs/ with its arguments, wherever they stand among the words of a command."""
    for i, word in enumerate(words):
        rest = [settled(each, variables or {}) for each in words[i + 1 :]]
        end = next((n for n, each in enumerate(rest) if re.match(r"[|&;<>]|\d?>", each)), len(rest))
        if word in ("betr", "bare") and rest and re.fullmatch("[a-z]+", rest[0]):
            yield word, rest[:end]
        elif word.endswith("kubernetes/submit"):
            program, _, stage = rest[0].partition("_")
            yield program, [stage, *rest[1:end]]
        elif job := re.fullmatch(r"(?:local://)?(?:\S*/)?((betr|bare)_(\w+))\.py", word):
            assert (ROOT / "jobs" / f"{job[1]}.py").is_file(), word
            yield job[2], [job[3], *rest[:end]]


def commands_in(text: str) -> Iterator[Command]:
    for line in text.replace("\\\n", " ").splitlines():
        if re.search(r"\b(betr|bare) [a-z]|jobs/|submit ", line):
            yield from commands_of(shlex.split(line, comments=True))


def of_compose() -> Iterator[Command]:
    for name in COMPOSE:
        for service in read(DOCKER / name)["services"].values():
            yield from commands_of(service.get("command", []))
    for name in (*COMPOSE, "Dockerfile"):
        yield from commands_in("\n".join(re.findall("^#   (.*)$", (DOCKER / name).read_text(), re.MULTILINE)))


def of_databricks() -> Iterator[Command]:
    variables = {name: str(each.get("default", "x")) for name, each in bundle()["variables"].items()}
    for job in bundle()["resources"]["jobs"].values():
        for task in job["tasks"]:
            wheel = task["python_wheel_task"]
            program = wheel["entry_point"].removesuffix("_task")
            yield program, [settled(each, variables) for each in wheel["parameters"]]


def of_kubernetes() -> Iterator[Command]:
    template = read(DEPLOY / "kubernetes" / "betr-nightly.yaml")["spec"]["template"]
    yield from commands_of([template["mainApplicationFile"], *template["arguments"]])


def of_airflow() -> Iterator[Command]:
    for command in dag_commands().values():
        yield from commands_of(shlex.split(command))


def of_cron() -> Iterator[Command]:
    script = (DEPLOY / "cron" / "nightly").read_text().replace('"$@"', "--config night.yaml")
    yield from commands_in("\n".join(line for line in script.splitlines() if not line.startswith("#")))


def of_docs() -> Iterator[Command]:
    for block in re.findall("^```\n(.*?)^```", (ROOT / "docs" / "clusters.md").read_text(), re.MULTILINE | re.DOTALL):
        yield from commands_in(block)


@pytest.mark.parametrize(
    ("source", "at_least"),
    [(of_compose, 3), (of_databricks, 18), (of_kubernetes, 1), (of_airflow, 5), (of_cron, 1), (of_docs, 8)],
)
def test_every_command_line_is_one_that_the_programs_take(
    source: Callable[[], Iterator[Command]], at_least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = list(source())
    (tmp_path / "night.yaml").write_text("sample: 100\n")  # the settings that nights are called with
    monkeypatch.chdir(tmp_path)
    assert len(found) >= at_least
    for program, argv in found:
        try:
            given = parser(program).parse_args(argv)
        except SystemExit:
            pytest.fail(f"{program} refuses {shlex.join(argv)}")
        config: Any = {"betr": RunConfig, "bare": BareConfig, "evaluate": EvaluationConfig}[program]
        config = RoiConfig if given.command == "roi" else config
        if given.command != "doctor":
            read_config(config, given[given.command])  # raises where a value is none


def test_the_tasks_entry_points_raise_what_the_commands_return(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, cli in (("betr_task", betr.cli), ("bare_task", bare.cli), ("evaluate_task", evaluation.cli)):
        assert PROJECT["entry-points"]["databricks"][name] == f"{cli.__name__}:task"
        monkeypatch.setattr(cli, "main", lambda: 0)
        cli.task()
        monkeypatch.setattr(cli, "main", lambda: 3)
        with pytest.raises(SystemExit) as left:
            cli.task()
        assert left.value.code == 3


# -- Databricks --------------------------------------------------------------------------------------------------------


@cache
def bundle() -> dict[str, Any]:
    """The bundle's files as one: each kind of resource merged over them."""
    whole = read(DEPLOY / "databricks" / "databricks.yml")
    whole["resources"] = {}
    for path in sorted((DEPLOY / "databricks").glob(whole["include"][0])):
        for kind, each in read(path)["resources"].items():
            there = whole["resources"].setdefault(kind, {})
            assert not there.keys() & each.keys()
            there.update(each)
    return whole


def test_the_bundles_tasks_are_the_stages_one_after_the_other() -> None:
    jobs = bundle()["resources"]["jobs"]
    assert [task["task_key"] for task in jobs["betr"]["tasks"]] == list(STAGE_ORDER)
    nightly = [task["task_key"] for task in jobs["betr_nightly"]["tasks"]]
    assert nightly == [stage for stage in STAGE_ORDER if stage in nightly]
    for job in jobs.values():
        before = None
        for task in job["tasks"]:
            assert task.get("depends_on", []) == ([{"task_key": before}] if before else [])
            before = task["task_key"]


def test_gpus_only_where_models_are_loaded_and_serverless_elsewhere() -> None:
    for job in bundle()["resources"]["jobs"].values():
        environments = {each["environment_key"] for each in job["environments"]}
        clusters = {each["job_cluster_key"] for each in job.get("job_clusters", [])}
        for task in job["tasks"]:
            if task["task_key"] in NEED_GPU:
                assert task["job_cluster_key"] in clusters and "environment_key" not in task
                assert {"whl": "../dist/*.whl"} in task["libraries"]
            else:
                assert task["environment_key"] in environments and "job_cluster_key" not in task
        assert all(each["spec"]["dependencies"] == ["../dist/*.whl"] for each in job["environments"])
    assert "job_clusters" not in bundle()["resources"]["jobs"]["betr_nightly"]


def test_a_job_never_overlaps_itself_and_tries_again_when_the_tables_are_free() -> None:
    for job in bundle()["resources"]["jobs"].values():
        assert job["max_concurrent_runs"] == 1 and job["queue"] == {"enabled": True}
        assert job["email_notifications"]["on_failure"]
        for task in job["tasks"]:
            if task["task_key"] == "watch":  # the same drift is told again
                assert "max_retries" not in task and task["disable_auto_optimization"]
            else:
                assert task["max_retries"] > 0 and task["min_retry_interval_millis"] > 1000 * LEASE_SECONDS
    assert bundle()["resources"]["jobs"]["betr_nightly"]["schedule"]["quartz_cron_expression"] == "0 0 2 * * ?"


def test_what_the_bundle_refers_to_is_in_it() -> None:
    text = "\n".join(path.read_text() for path in (DEPLOY / "databricks").rglob("*.yml"))
    assert set(re.findall(r"\$\{var\.(\w+)\}", text)) == set(bundle()["variables"])
    for kind, name, field in re.findall(r"\$\{resources\.(\w+)\.(\w+)\.(\w+)\}", text):
        assert field in bundle()["resources"][kind][name]
    assert set(bundle()["targets"]) == {"dev", "prod"}
    points = PROJECT["entry-points"]["databricks"]
    tasks = [task for job in bundle()["resources"]["jobs"].values() for task in job["tasks"]]
    assert {task["python_wheel_task"]["entry_point"] for task in tasks} == set(points)
    assert {task["python_wheel_task"]["package_name"] for task in tasks} == {PROJECT["name"]}
    for _, argv in of_databricks():
        assert is_catalog_name(argv[argv.index("--tables") + 1])


def test_the_wheel_for_databricks_asks_for_no_pyspark_and_is_whole(tmp_path: Path) -> None:
    metadata = (
        "Metadata-Version: 2.4\nName: demo\nVersion: 1\nRequires-Dist: pyspark<4.3,>=4.0\nRequires-Dist: numpy>=1.26\n"
        "Requires-Dist: delta-spark>=4\nRequires-Dist: pyspark-peer\n\nText: Requires-Dist: pyspark\n"
    )
    files = {"demo/__init__.py": "x = 1\n", "demo-1.dist-info/METADATA": metadata, "demo-1.dist-info/entry_points.txt": "[a]\n"}
    record = "demo-1.dist-info/RECORD"
    files[record] = "".join(f"{name},sha256={digest(text)},{len(text)}\n" for name, text in files.items()) + f"{record},,\n"
    wheel = tmp_path / "demo-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    (tmp_path / "copy").mkdir()
    with zipfile.ZipFile(without_spark(wheel, tmp_path / "copy")) as archive:
        found = {name: archive.read(name).decode() for name in archive.namelist()}
    assert list(found) == list(files)
    lost = [line for line in metadata.splitlines() if line not in found["demo-1.dist-info/METADATA"].splitlines()]
    assert lost == ["Requires-Dist: pyspark<4.3,>=4.0", "Requires-Dist: delta-spark>=4"]
    assert {name for name in files if found[name] != files[name]} == {"demo-1.dist-info/METADATA", record}
    for name, recorded, size in csv.reader(found[record].splitlines()):
        if name != record:
            assert (recorded, int(size)) == (f"sha256={digest(found[name])}", len(found[name]))


def digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


# -- Docker ------------------------------------------------------------------------------------------------------------


@cache
def stages() -> list[list[tuple[str, str]]]:
    """The Dockerfile's instructions, stage by stage."""
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: list[list[tuple[str, str]]] = []
    for line in filter(None, text.splitlines()):
        name, _, value = line.partition(" ")
        if name == "FROM":
            found.append([])
        found[-1].append((name, value))
    return found


def ignored(path: str) -> bool:
    """Whether the engine is kept from a path by .dockerignore, whose last pattern that fits decides."""
    kept_out = False
    for pattern in (ROOT / ".dockerignore").read_text().split("\n"):
        pattern, again = pattern.removeprefix("!"), pattern.startswith("!")
        if not pattern or pattern.startswith("#"):
            continue
        fits = path == pattern or path.startswith(f"{pattern}/") or fnmatch(f"/{path}", pattern.replace("**/", "*/"))
        if pattern == "*" or fits:
            kept_out = not again
    return kept_out


def test_images_are_pinned_and_the_last_stage_runs_as_nobody_and_compiles_nothing() -> None:
    for stage in stages():
        image = stage[0][1].split(" AS ")[0]
        assert re.fullmatch(r"[a-z-]+:\d+\.\d+\.\d+[\w.-]*", image), image
    last = stages()[-1]
    assert [value for name, value in last if name == "USER"] == ["185"]
    assert "slim" in last[0][1]
    assert not [value for name, value in last if name == "RUN" and re.search("apt|pip|gcc|curl", value)]
    started = [name for name, _ in last]
    assert started.index("USER") > max(i for i, name in enumerate(started) if name in ("RUN", "COPY"))
    installs = [value for stage in stages() for name, value in stage if name == "RUN" and " install" in value]
    assert all("--require-hashes" in value or "--no-deps /dist/*.whl" in value for value in installs)


def test_what_the_image_copies_is_here_and_not_ignored() -> None:
    sources: set[str] = set()
    names = {stage[0][1].split(" AS ")[1] for stage in stages()[:-1]}
    for stage in stages():
        for name, value in stage:
            words = value.split()
            if name == "COPY" and words[0].startswith("--from="):
                assert words[0].removeprefix("--from=") in names
            elif name == "COPY":
                sources.update(words[:-1])
    assert {"curation", "betr", "bare", "jobs", "requirements/lock.txt"} <= sources
    for source in sources:
        assert (ROOT / source).exists() and not ignored(source), source
    assert ignored(".venv") and ignored(".local/jars") and ignored("betr/__pycache__") and ignored("docs/method.md")
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(wheel["packages"]) <= sources
    for script in ("docker/entrypoint", "docker/gpus", "deploy/cron/nightly", "deploy/kubernetes/submit"):
        assert os.access(ROOT / script, os.X_OK), script


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("there is no hadolint")
    done = subprocess.run([hadolint, str(DOCKER / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_gpu_cluster_is_the_other_one_with_a_gpu_for_each_worker() -> None:
    plain, gpu = (read(DOCKER / name)["services"] for name in COMPOSE)
    assert set(plain) == set(gpu) == {"master", "worker-1", "worker-2", "job"}
    assert {service["image"] for service in plain.values()} == {IMAGE}
    assert {service["image"] for service in gpu.values()} == {f"{IMAGE}-gpu"}
    for service in plain.values():
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
        assert service["volumes"] == plain["master"]["volumes"]  # the same paths everywhere
    devices = [
        gpu[worker]["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] for worker in ("worker-1", "worker-2")
    ]
    assert devices == [["0"], ["1"]]
    given, asked = (services["job"]["command"] for services in (plain, gpu))
    more = [word for word in asked if word not in given]
    assert more == [
        "--conf", "spark.executor.resource.gpu.amount=1", "${ENCODER:-Snowflake/snowflake-arctic-embed-l-v2.0}",
        "--gpus-per-task", "1",
    ]  # fmt: skip


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_files_hold_to_the_compose_specification(name: str) -> None:
    check = pytest.importorskip("check_jsonschema", reason="check-jsonschema brings the specification's schema")
    folder = Path(check.__file__).parent / "builtin_schemas" / "vendor"
    assert errors(json.loads((folder / "compose-spec.json").read_text()), read(DOCKER / name)) == []


# -- scripts, with stand-ins for what they call ------------------------------------------------------------------------


def stand_in(folder: Path, name: str, body: str = "") -> Path:
    """A program that writes its arguments to a file beside it, then does what `body` says."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > "{path}.given"\n{body}\n')
    path.chmod(0o755)
    return path


def given(program: Path) -> list[str]:
    return Path(f"{program}.given").read_text().splitlines()


def run_script(script: Path, *arguments: str, path: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": f"{path}:/usr/bin:/bin", **env}
    return subprocess.run(
        [str(script), *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_entrypoint_starts_what_the_cluster_asks_for(tmp_path: Path) -> None:
    spark_class, submit = (stand_in(tmp_path / "bin", name) for name in ("spark-class", "spark-submit"))
    java = stand_in(tmp_path / "java" / "bin", "java")
    spark_class.write_text(spark_class.read_text() + 'echo "$SPARK_WORKER_OPTS"\n')

    def container(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        home = {"SPARK_HOME": str(tmp_path), "JAVA_HOME": str(tmp_path / "java")}
        done = run_script(DOCKER / "entrypoint", *arguments, path=tmp_path, **home, **env)
        assert done.returncode == 0, done.stderr
        return done

    container("master")
    assert given(spark_class)[0] == "org.apache.spark.deploy.master.Master"
    told = container("worker", "spark://master:7077", WORKER_GPUS="1", WORKER_CORES="4").stdout
    assert given(spark_class)[0] == "org.apache.spark.deploy.worker.Worker"
    assert given(spark_class)[-1] == "spark://master:7077" and given(spark_class)[4] == "4"
    assert told == "-Dspark.worker.resource.gpu.amount=1 -Dspark.worker.resource.gpu.discoveryScript=/opt/betr/gpus \n"
    container("driver", "--class", "X", "local:///opt/betr/jobs/betr_run.py", SPARK_DRIVER_BIND_ADDRESS="10.0.0.1")
    assert given(submit)[:4] == ["--deploy-mode", "client", "--conf", "spark.driver.bindAddress=10.0.0.1"]
    assert given(submit)[-3:] == ["--class", "X", "local:///opt/betr/jobs/betr_run.py"]
    executor = {f"SPARK_EXECUTOR_{name}": name.lower() for name in ("MEMORY", "ID", "CORES", "POD_IP", "POD_NAME")}
    options = {f"SPARK_JAVA_OPT_{n}": f"-Dn={n} of 11" for n in range(11)}
    others = {name: name for name in ("SPARK_DRIVER_URL", "SPARK_APPLICATION_ID", "SPARK_RESOURCE_PROFILE_ID")}
    container("executor", **executor, **options, **others, SPARK_CONF_DIR="/conf")
    assert given(java)[:13] == [*options.values(), "-Xmsmemory", "-Xmxmemory"]
    assert given(java)[14] == f"/conf:{tmp_path}/jars/*"
    assert given(java)[15] == "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend"
    assert container("echo", "any command").stdout == "any command\n"


def test_the_discovery_script_names_every_gpu(tmp_path: Path) -> None:
    stand_in(tmp_path, "nvidia-smi", "printf '0\\n1\\n'")
    found = json.loads(run_script(DOCKER / "gpus", path=tmp_path).stdout)
    assert found == {"name": "gpu", "addresses": ["0", "1"]}
    stand_in(tmp_path, "nvidia-smi", "exit 9")
    assert run_script(DOCKER / "gpus", path=tmp_path).returncode != 0


@pytest.mark.parametrize(
    ("job", "arguments", "gpus"),
    [("betr_score", [], False), ("betr_embed", ["--encoder", "m"], True), ("bare_run", ["--accepted", "3"], True)],
)
def test_submitting_to_kubernetes_asks_for_gpus_where_models_are_loaded(
    tmp_path: Path, job: str, arguments: list[str], gpus: bool
) -> None:
    submit, script = stand_in(tmp_path, "spark-submit"), DEPLOY / "kubernetes" / "submit"
    done = run_script(script, job, "--tables", "/data/t", *arguments, path=tmp_path, MASTER="k8s://https://x")
    assert done.returncode == 0, done.stderr
    words = given(submit)
    assert ("spark.executor.resource.gpu.amount=1" in words) is gpus is ("--gpus-per-task" in words)
    assert f"spark.kubernetes.container.image={IMAGE}{'-gpu' if gpus else ''}" in words
    ((program, argv),) = commands_of(words)
    parser(program).parse_args(argv)
    assert run_script(script, "betr_nothing", path=tmp_path, MASTER="x").returncode == 2


@pytest.mark.parametrize(
    ("code", "said"),
    [(0, ""), (1, "failed with exit code 1: betr run: no file matches"), (3, "what came in has moved: betr show drift --tables")],
)
def test_the_night_of_cron_says_one_sentence_where_something_is_wrong(tmp_path: Path, code: int, said: str) -> None:
    betr_ = stand_in(tmp_path / "bin", "betr", f"echo 'betr run: no file matches' >&2; exit {code}")
    tables = str(tmp_path / "tables")
    done = run_script(DEPLOY / "cron" / "nightly", f"{tables}/", "/in", path=betr_.parent)
    assert (done.returncode, done.stderr) == (code, "")
    assert said in done.stdout and done.stdout.count("\n") == bool(said)
    assert given(betr_)[:5] == ["run", "--tables", tables, "--documents", "/in"]
    assert Path(f"{tables}.log").read_text().endswith("betr run: no file matches\n")
    run_script(DEPLOY / "cron" / "nightly", tables, "/in", "--config", "/a night.yaml", path=betr_.parent)
    assert given(betr_)[:7] == ["run", "--config", "/a night.yaml", "--tables", tables, "--documents", "/in"]


def test_a_night_that_overlaps_another_waits_and_then_leaves_with_a_sentence(tmp_path: Path) -> None:
    betr_ = stand_in(tmp_path / "bin", "betr")
    tables = str(tmp_path / "tables")
    with open(f"{tables}.night", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = run_script(DEPLOY / "cron" / "nightly", tables, "/in", path=betr_.parent, WAIT="0")
    assert done.returncode == 1 and done.stdout.startswith(f"betr: another night is still at work on {tables}")
    assert not Path(f"{betr_}.given").exists()
    assert run_script(DEPLOY / "cron" / "nightly", tables, "/in", path=betr_.parent).returncode == 0


def test_crontab_calls_the_night_with_what_it_wants() -> None:
    lines = [line for line in (DEPLOY / "cron" / "crontab").read_text().splitlines() if line[:1].isdigit()]
    assert len(lines) == 1
    *when, script, tables, documents = lines[0].split()
    assert len(when) == 5 and script.endswith("deploy/cron/nightly") and tables.startswith("/") and documents.startswith("/")


# -- schedules ---------------------------------------------------------------------------------------------------------


def dag_commands() -> dict[str, str]:
    """What the DAG's tasks run, read from its source: Airflow is no dependency of ours."""
    tree = ast.parse((DEPLOY / "airflow" / "betr_nightly.py").read_text())
    (stages_,) = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "STAGES"
    ]
    found: dict[str, str] = ast.literal_eval(stages_)
    return found


def test_all_schedules_do_the_same_night() -> None:
    dag = list(of_airflow())
    nightly = [task["task_key"] for task in bundle()["resources"]["jobs"]["betr_nightly"]["tasks"]]
    assert [argv[0] for _, argv in dag] == list(dag_commands()) == nightly
    for source in (of_kubernetes, of_cron):
        ((_, argv),) = source()
        assert argv[0] == "run" and argv[argv.index("--carry") + 1] == "default" and argv[argv.index("--on-drift") + 1] == "fail"


@pytest.mark.skipif(importlib.util.find_spec("airflow") is None, reason="Airflow is not installed")
def test_the_dag_imports_and_is_a_chain() -> None:
    from deploy.airflow.betr_nightly import dag

    assert dag.max_active_runs == 1 and not dag.catchup
    before: set[str] = set()
    for stage in dag_commands():
        task = dag.get_task(stage)
        assert task.upstream_task_ids == before
        assert task.retries == (0 if stage == "watch" else 2)
        assert task.retry_delay.total_seconds() > LEASE_SECONDS
        before = {stage}


def test_the_night_on_kubernetes_forbids_two_at_once_and_runs_our_image() -> None:
    spec = read(DEPLOY / "kubernetes" / "betr-nightly.yaml")["spec"]
    template = spec["template"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert template["image"] == IMAGE and f"pyspark=={template['sparkVersion']} " in (ROOT / "requirements" / "lock.txt").read_text()
    assert template["restartPolicy"]["onFailureRetryInterval"] > LEASE_SECONDS
    volumes = {volume["name"] for volume in template["volumes"]}
    for part in ("driver", "executor"):
        assert {mount["name"] for mount in template[part]["volumeMounts"]} == volumes
        assert template[part]["podSecurityContext"]["runAsUser"] == 185 and template[part]["podSecurityContext"]["runAsNonRoot"]
        assert "gpu" not in template[part]


# -- schemas that platforms publish, where they are given --------------------------------------------------------------


def errors(schema: dict[str, Any], document: Any) -> list[str]:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)(schema)
    return [f"{error.json_path}: {jsonschema.exceptions.best_match([error]).message}" for error in validator.iter_errors(document)]


def published(name: str) -> str:
    folder = os.environ.get("DEPLOY_SCHEMAS")
    if folder is None:
        pytest.skip("DEPLOY_SCHEMAS names no folder with the platforms' schemas (docs/clusters.md)")
    return Path(folder, name).read_text()


def test_the_bundle_holds_to_the_schema_of_the_databricks_cli() -> None:
    # Python's regular expressions have no classes by Unicode property; letters and digits are \w.
    schema = json.loads(re.sub(r"\\\\p\{[LN]\}", r"\\\\w", published("bundle.json")))
    for path in (DEPLOY / "databricks").rglob("*.yml"):
        assert errors(schema, read(path)) == [], path.name


def test_the_night_on_kubernetes_holds_to_the_operators_definition() -> None:
    versions = yaml.load(published("scheduledsparkapplication.yaml"), yaml.CSafeLoader)["spec"]["versions"]
    (schema,) = [each["schema"]["openAPIV3Schema"] for each in versions if each["name"] == "v1beta2"]
    document = read(DEPLOY / "kubernetes" / "betr-nightly.yaml")
    assert errors(schema, document) == []
    assert list(unknown(schema["properties"]["spec"], document["spec"], "spec")) == []


def unknown(schema: dict[str, Any], document: Any, path: str) -> Iterator[str]:
    """Fields that a definition doesn't have: Kubernetes drops them in silence."""
    if isinstance(document, list):
        for each in document:
            yield from unknown(schema["items"], each, path)
    elif isinstance(document, dict):
        for name, value in document.items():
            if "properties" not in schema:
                continue
            if name not in schema["properties"]:
                yield f"{path}.{name}"
            else:
                yield from unknown(schema["properties"][name], value, f"{path}.{name}")
