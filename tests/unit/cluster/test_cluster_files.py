"""What lies in cluster/ is valid, and all that it names is there: files, ports, images, versions, metrics."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

import musc_ray
from musc_ray.runtime.telemetry import COUNTERS, GAUGES, metric_name
from musc_ray.settings.loading import load_settings

ROOT = Path(__file__).parents[3]
CLUSTER = ROOT / "cluster"
CRDS = ROOT.parent / "shared" / "kuberay-crds"
BASE = sorted((CLUSTER / "kuberay" / "base").glob("*.yaml"))
VERSION = musc_ray.__version__
CONSTRAINTS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def rendered(overlay: str) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which renders the overlays, is not installed")
    command = ["kubectl", "kustomize", str(CLUSTER / "kuberay" / overlay)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return documents(result.stdout)


@cache
def kuberay_schema(kind: str) -> dict[str, Any]:
    if not CRDS.exists():
        pytest.skip(f"{CRDS}, KubeRay's definitions, is not there")
    text = (CRDS / f"ray.io_{kind.lower()}s.yaml").read_text()
    definition = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506, both are safe
    (schema,) = [each["schema"]["openAPIV3Schema"] for each in definition["spec"]["versions"] if each["name"] == "v1"]
    return closed(schema)


def closed(schema: Any) -> Any:
    """The schema with unknown fields refused, as the API server's field validation does."""
    if isinstance(schema, dict):
        schema = {key: closed(value) for key, value in schema.items()}
        if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        if schema.get("x-kubernetes-int-or-string"):
            schema = {"type": ["integer", "string"]}
    elif isinstance(schema, list):
        schema = [closed(value) for value in schema]
    return schema


def validate(document: dict[str, Any]) -> None:
    if document["apiVersion"].startswith("ray.io/"):
        jsonschema.Draft202012Validator(kuberay_schema(document["kind"])).validate(document)
        for pod in pods(document):
            validate_pod(pod)
    else:
        kubernetes_validate.validate(document, "1.34", strict=True)


def validate_pod(spec: dict[str, Any]) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
    kubernetes_validate.validate(pod, "1.34", strict=True)


def pods(value: Any) -> Iterator[dict[str, Any]]:
    """Every pod's spec, wherever it stands."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for child in value.values():
            yield from pods(child)
    elif isinstance(value, list):
        for child in value:
            yield from pods(child)


def jobs(rendering: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The specs of RayJobs, that of the night included, by kind."""
    return {
        each["kind"]: each["spec"].get("jobTemplate", each["spec"])
        for each in rendering
        if each["kind"] in ("RayJob", "RayCronJob")
    }


@pytest.mark.parametrize("path", [path for path in BASE if path.name != "kustomization.yaml"], ids=lambda p: p.name)
def test_base_manifests_are_valid(path):
    for document in documents(path.read_text()):
        validate(document)


@pytest.mark.parametrize("overlay", ["dev", "prod"])
def test_overlays_are_valid(overlay):
    documents = rendered(overlay)
    assert {each["kind"] for each in documents} == {"ServiceAccount", "ConfigMap", "RayJob", "RayCronJob"}
    for document in documents:
        validate(document)
    kinds = jobs(documents)
    for part in ("rayClusterSpec", "submitterPodTemplate"):
        assert kinds["RayCronJob"][part] == kinds["RayJob"][part]  # the night's cluster is the archive's
    prefix = f"registry.example.com/musc-ray:{VERSION}-"
    images = {container["image"] for pod in pods(documents) for container in pod["containers"]}
    assert images == {prefix + {"dev": "cpu", "prod": "cuda"}[overlay]}


def test_a_wrong_field_is_found():
    """The validation that the tests above trust."""
    job = documents((CLUSTER / "kuberay/base/archive.yaml").read_text())[0]
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        validate(job)
    del job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"]
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["img"] = "x"
    with pytest.raises(jsonschema.ValidationError, match="img"):
        validate(job)


@pytest.mark.parametrize("overlay", ["base", "dev", "prod"])
def test_pods_are_confined_and_limited(overlay):
    archive = documents((CLUSTER / "kuberay/base/archive.yaml").read_text()) if overlay == "base" else rendered(overlay)
    found = list(pods(archive))
    assert len(found) >= 3
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["serviceAccountName"] == "musc-ray"
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
            names = {volume["name"] for volume in pod.get("volumes", ())}
            assert {mount["name"] for mount in container.get("volumeMounts", ())} == names
    for job in jobs(archive).values():
        spec = job["rayClusterSpec"]
        assert spec["authOptions"] == {"mode": "token"}
        assert spec["enableInTreeAutoscaling"] is True
        assert spec["rayVersion"] == CONSTRAINTS["ray"]
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            spill = group["rayStartParams"]["object-spilling-directory"]
            (container,) = group["template"]["spec"]["containers"]
            assert spill in {mount["mountPath"] for mount in container["volumeMounts"]}


def start_options() -> set[str]:
    """The options of `ray start`."""
    command = [str(Path(sys.executable).with_name("ray")), "start", "--help"]
    return set(re.findall(r"--([a-z-]+)", subprocess.run(command, capture_output=True, text=True, check=True).stdout))


@pytest.mark.slow
def test_ray_start_knows_the_options():
    options = start_options()
    spec = documents((CLUSTER / "kuberay/base/archive.yaml").read_text())[0]["spec"]["rayClusterSpec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert group["rayStartParams"].keys() <= options
    launcher = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
    for command in launcher["head_start_ray_commands"] + launcher["worker_start_ray_commands"]:
        assert set(re.findall(r" --([a-z-]+)", command)) <= options, command


def in_repository(path: str) -> Path:
    """Where a path of the image comes from."""
    return ROOT / path.removeprefix("/app/")


def entry_points() -> dict[str, str]:
    """Every command that starts a job, by where it stands."""
    found = {}
    for path in sorted(CLUSTER.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            for match in re.finditer(r"python (?:/app/)?jobs/\w+\.py[^\n}\"]*", path.read_text()):
                found[f"{path.relative_to(ROOT)}: {match[0]}"] = match[0]
    return found


@pytest.mark.parametrize("command", entry_points().values(), ids=entry_points().keys())
def test_entry_points_and_their_settings_are_there(command, monkeypatch):
    monkeypatch.setenv("MUSC_RAY_STORE", "s3://plant")
    _, script, *options = shlex.split(command.replace(r"\"", "").replace("$@", "").split("`")[0])
    assert in_repository(script).is_file()
    assert options[0] == "--config"
    sets = [value for name, value in zip(options[2::2], options[3::2], strict=False) if name == "--set"]
    settings = load_settings(in_repository(options[1]), None, sets)
    assert settings.source.startswith("s3://plant")


def test_the_launcher_file_is_valid():
    config = prepare_config(yaml.safe_load((CLUSTER / "aws.yaml").read_text()))
    validate_config(config)
    assert config["docker"]["image"] == f"registry.example.com/musc-ray:{VERSION}-cuda"
    worker = config["available_node_types"]["gpu"]["node_config"]
    assert worker["InstanceMarketOptions"] == {"MarketType": "spot"}
    for kind in config["available_node_types"].values():
        assert kind["node_config"]["IamInstanceProfile"] == {"Name": "musc-ray"}
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    assert all("RAY_AUTH_MODE=token" in command for command in starts if "ray start" in command)


def test_the_dockerfile_is_clean_and_copies_what_is_there():
    result = subprocess.run(
        [str(Path(sys.executable).with_name("hadolint")), str(CLUSTER / "Dockerfile")], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout
    text = (CLUSTER / "Dockerfile").read_text()
    kept = re.findall(r"^!(.+)$", (CLUSTER / "Dockerfile.dockerignore").read_text(), flags=re.MULTILINE)
    copied = [word for line in re.findall(r"^COPY (?!--from)(.+)$", text, flags=re.M) for word in line.split()[:-1]]
    assert sorted(copied) == sorted(kept)
    for name in copied:
        assert (ROOT / name).exists(), name
    for argument in re.findall(r"^ARG (\w+)", text, flags=re.MULTILINE):
        assert f"${{{argument}}}" in text
    assert re.findall(r"^USER (.+)$", text, flags=re.MULTILINE) == ["1000"]  # as the pods' runAsUser


def test_the_dashboard_shows_what_is_exported():
    dashboard = json.loads((CLUSTER / "grafana/musc_ray.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    ours = {name for query in queries for name in re.findall(r"ray_musc_ray_\w+", query)}
    exported = {f"ray_{metric_name(name)}_total" for name in COUNTERS} | {f"ray_{metric_name(name)}" for name in GAUGES}
    assert ours == exported
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_slurm_script_runs_one_command_on_all_nodes(tmp_path):
    """With a Slurm that only says what it is asked."""
    for name, script in {
        "scontrol": "printf 'node1\\nnode2\\n'",
        "srun": 'echo "$RAY_AUTH_MODE $RAY_ADDRESS"; stat -c %a "$RAY_AUTH_TOKEN_PATH"; printf "%s\\n" "$@"; exit 3',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "8",
    }
    path = f"{tmp_path}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", str(CLUSTER / "slurm/archive.sbatch"), "--set", "workers=2"]
    environment = {**os.environ, **slurm, "PATH": path}
    without = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "MUSC_RAY_STORE" in without.stderr
    environment["MUSC_RAY_STORE"] = "/data/plant"
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 3  # the job's own
    said, mode, *arguments = result.stdout.splitlines()
    assert said == "token node1:23456"
    assert mode == "600"
    assert not list(tmp_path.glob(".musc-ray-token*"))
    separator = arguments.index("--")
    assert arguments[1:3] == ["ray", "symmetric-run"]
    given = {each.removeprefix("--") for each in arguments[3:separator] if each.startswith("--")}
    assert given - {"address", "min-nodes"} <= start_options()
    job = ["python", "jobs/archive.py", "--config", "jobs/archive.yaml", "--set", "workers=2"]
    assert arguments[separator + 1 :] == job


def test_scripts_of_the_night_are_valid():
    lines = [line for line in (CLUSTER / "night/crontab").read_text().splitlines() if not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"(\d+|\*)( (\d+|\*)){4} .+", line)
        subprocess.run(["sh", "-n", "-c", line.split(maxsplit=5)[5]], check=True)
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    units = [str(CLUSTER / f"night/musc-ray-nightly.{kind}") for kind in ("service", "timer")]
    result = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    complaints = [line for line in result.stderr.splitlines() if "musc-ray-nightly" in line]
    missing = "Command /opt/musc-ray/.venv/bin/ray is not executable"
    assert [line for line in complaints if missing not in line] == []
