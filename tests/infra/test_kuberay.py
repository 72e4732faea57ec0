"""The manifests: valid by KubeRay's and Kubernetes' own schemas, locked down, and their commands are jobs' commands."""

import functools
import http.server
import importlib.util
import itertools
import json
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipelines import cli, health, preemption
from pipelines.curation.config import CurateConfig
from pipelines.evaluation.config import EvaluateConfig
from pipelines.inference.answer_config import AnswerConfig
from pipelines.inference.config import CaptionConfig
from pipelines.training.config import TrainConfig
from tests.infra.images import ROOT
from tests.infra.kustomize import Manifest, load, render

KUBERAY = ROOT / "infra" / "kuberay"
OVERLAYS = ("cpu", "gpu", "gpu-before-1.6")
CRDS = ROOT.parent / "shared" / "data" / "kuberay"
CONFIGS: dict[str, Any] = {
    "caption_corpus": CaptionConfig,
    "answer_corpus": AnswerConfig,
    "curate_corpus": CurateConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
}


@functools.cache
def manifests(overlay: str) -> tuple[Manifest, ...]:
    return tuple(render(KUBERAY / "overlays" / overlay))


def job_specs(overlay: str) -> dict[str, dict[str, Any]]:
    """Name → spec of every RayJob, those of schedules too."""
    found = {one["metadata"]["name"]: one["spec"] for one in manifests(overlay) if one["kind"] == "RayJob"}
    crons = [one for one in manifests(overlay) if one["kind"] == "RayCronJob"]
    return found | {one["metadata"]["name"]: one["spec"]["jobTemplate"] for one in crons}


def pods(overlay: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where, and the pod's spec, of every pod that may come of an overlay."""
    for name, spec in job_specs(overlay).items():
        cluster = spec["rayClusterSpec"]
        yield f"{name} head", cluster["headGroupSpec"]["template"]["spec"]
        for group in cluster["workerGroupSpecs"]:
            yield f"{name} {group['groupName']}", group["template"]["spec"]
    for one in manifests(overlay):
        if one["kind"] == "CronJob":
            yield one["metadata"]["name"], one["spec"]["jobTemplate"]["spec"]["template"]["spec"]


@functools.cache
def strict_schema(kind: str) -> dict[str, Any]:
    """A resource's schema from its CRD; a field that it does not know is a fault, as `kubectl apply` has it."""
    path = CRDS / f"ray.io_{kind.lower()}s.yaml"
    if not path.exists():
        pytest.skip(f"KubeRay's CRDs are not here: {CRDS}")
    (version,) = [
        one for one in yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]["versions"] if one["name"] == "v1"
    ]

    def close(node: Any) -> None:
        if isinstance(node, list):
            for one in node:
                close(one)
        elif isinstance(node, dict):
            if node.pop("x-kubernetes-int-or-string", False):
                node.pop("type", None)
            if isinstance(node.get("properties"), dict) and not node.get("x-kubernetes-preserve-unknown-fields"):
                node.setdefault("additionalProperties", False)
            for one in node.values():
                close(one)

    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    close(schema)
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_resources_are_what_kuberay_reads(overlay: str) -> None:
    ours = [one for one in manifests(overlay) if one["apiVersion"] == "ray.io/v1"]
    assert {one["kind"] for one in ours} == {"RayJob"} | ({"RayCronJob"} if overlay != "gpu-before-1.6" else set())
    for one in ours:
        validator = jsonschema.Draft202012Validator(strict_schema(one["kind"]))
        faults = [f"{fault.json_path}: {fault.message[:200]}" for fault in validator.iter_errors(one)]
        assert not faults, (one["metadata"]["name"], faults)


def test_the_schemas_refuse_what_is_wrong() -> None:
    job = json.loads(json.dumps(next(one for one in manifests("cpu") if one["kind"] == "RayJob")))
    validator = jsonschema.Draft202012Validator(strict_schema("RayJob"))
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["immage"] = "x"
    job["spec"]["backoffLimit"] = "three"
    assert {fault.json_path.rpartition(".")[2] for fault in validator.iter_errors(job)} == {
        "containers[0]",
        "backoffLimit",
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_rest_is_what_kubernetes_reads(overlay: str) -> None:
    rest = [one for one in manifests(overlay) if one["apiVersion"] != "ray.io/v1"]
    assert len(rest) >= 8
    for one in rest:
        kubernetes_validate.validate(one, "1.33", strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**rest[0], "metadta": {}}, "1.33", strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_itself_renders_the_same(overlay: str) -> None:
    commands = (["kustomize", "build"], ["kubectl", "kustomize"])
    command = next((one for one in commands if shutil.which(one[0])), None)
    if command is None:
        pytest.skip("neither kustomize nor kubectl is installed")
    done = subprocess.run([*command, str(KUBERAY / "overlays" / overlay)], capture_output=True, text=True, check=True)

    def sort(documents: Any) -> list[Manifest]:
        return sorted((one for one in documents if one), key=lambda one: (one["kind"], one["metadata"]["name"]))

    assert sort(yaml.load_all(done.stdout, yaml.CSafeLoader)) == sort(manifests(overlay))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_command_is_one_that_its_job_reads(overlay: str) -> None:
    scripts = set()
    for name, spec in job_specs(overlay).items():
        python, script, *words = shlex.split(spec["entrypoint"])
        assert python == "python"
        assert (ROOT / script).is_file(), name
        scripts.add(Path(script).stem)
        config = cli.parse(CONFIGS[Path(script).stem], words)
        assert config.ray_address is None, "inside a cluster a job finds it by itself"
    assert scripts == CONFIGS.keys()


def test_a_wrong_command_is_found() -> None:
    with pytest.raises(SystemExit):
        cli.parse(CaptionConfig, ["--input", "s3://x", "--output", "s3://y", "--num-wrokers", "2"])


def test_jobs_sleep_until_they_are_woken_and_come_back_when_lost() -> None:
    for overlay in OVERLAYS:
        for one in manifests(overlay):
            if one["kind"] == "RayJob":
                assert one["spec"]["suspend"] is True
        for name, spec in job_specs(overlay).items():
            assert spec["shutdownAfterJobFinishes"] is True, name
            assert spec["ttlSecondsAfterFinished"] > 0
            assert spec["backoffLimit"] >= 1
            assert "runtimeEnvYAML" not in spec, "what it holds is shown to anybody who sees the job"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_clusters_ask_for_tokens_grow_and_show_no_dashboard(overlay: str) -> None:
    for name, spec in job_specs(overlay).items():
        cluster = spec["rayClusterSpec"]
        assert cluster["authOptions"] == {"mode": "token"}, name
        assert cluster["enableInTreeAutoscaling"] is True
        head = cluster["headGroupSpec"]
        assert (head["serviceType"], head["enableIngress"]) == ("ClusterIP", False)
        assert head["rayStartParams"]["num-cpus"] == "0"
        for group in cluster["workerGroupSpecs"]:
            assert 0 < group["minReplicas"] <= group["replicas"] < group["maxReplicas"]
    assert not [one for one in manifests(overlay) if one["kind"] in ("Ingress", "Service", "Secret")]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_locked_down(overlay: str) -> None:
    accounts = {one["metadata"]["name"] for one in manifests(overlay) if one["kind"] == "ServiceAccount"}
    for place, pod in pods(overlay):
        assert pod["serviceAccountName"] in accounts, place
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, place
            assert container["resources"]["requests"].keys() <= container["resources"]["limits"].keys()
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
            assert container["image"].startswith("registry.example/tessera:")
            for variable in container.get("env", []):
                assert not any(word in variable["name"] for word in ("SECRET", "PASSWORD", "KEY", "AUTH_TOKEN")), place
            for source in container.get("envFrom", []):
                assert source.keys() == {"secretRef"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nodes_drain_within_their_grace(overlay: str) -> None:
    for place, pod in pods(overlay):
        (container,) = pod["containers"]
        if not container["name"].startswith("ray-"):
            continue
        hook = container["lifecycle"]["preStop"]["exec"]["command"]
        assert hook[:3] == ["python", "-m", "pipelines.preemption"], place
        role, _, seconds = hook[3:]
        assert role == container["name"].removeprefix("ray-")
        wait = next(one["value"] for one in container["env"] if one["name"] == "RAY_JOB_STOP_WAIT_TIME_S")
        # Ray kills a job that is asked to stop after its wait, Kubernetes the pod after its grace
        assert float(seconds) <= float(wait) < pod["terminationGracePeriodSeconds"]
        for probe in ("readinessProbe", "livenessProbe"):
            assert container[probe]["exec"]["command"] == ["python", "-m", "pipelines.health", str(health.AGENT_PORT)]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_image_set_in_an_overlay_is_that_of_every_pod(overlay: str, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(KUBERAY, tmp_path / "kuberay")) / "overlays" / overlay
    path = copied / "kustomization.yaml"
    settings = yaml.safe_load(path.read_text())
    (command,) = re.findall(r"kustomize edit set image (\S+)=\S+", (ROOT / "infra" / "README.md").read_text())
    # what that command does
    others = [one for one in settings["images"] if one["name"] != command]
    settings["images"] = [*others, {"name": command, "newName": "my.registry/eyes", "newTag": "v7"}]
    path.write_text(yaml.safe_dump(settings))
    lines = "\n".join(yaml.safe_dump(one) for one in render(copied)).splitlines()
    found = [line.strip() for line in lines if " image: " in line]
    assert len(found) >= 11
    assert set(found) == {"image: my.registry/eyes:v7"}


def test_models_run_on_gpus_and_curation_does_not() -> None:
    for name, spec in job_specs("gpu").items():
        (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        keys = {one["key"] for one in group["template"]["spec"]["tolerations"]}
        assert {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"} <= keys
        assert ("nvidia.com/gpu" in limits) == ("nvidia.com/gpu" in keys) == (not name.startswith("curate")), name
        if not name.startswith("curate"):
            words = shlex.split(spec["entrypoint"])
            assert words[words.index("--num-workers") + 1] == str(group["replicas"]), name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_may_talk_unless_it_is_named(overlay: str) -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in manifests(overlay) if one["kind"] == "NetworkPolicy"}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, spec in policies.items():
        if name == "default-deny":
            continue
        assert spec["podSelector"], name
        for rule in spec.get("ingress", []):
            assert rule["from"], f"{name} lets anybody in"
        blocks = [to["ipBlock"] for rule in spec.get("egress", []) for to in rule.get("to", []) if "ipBlock" in to]
        assert all("169.254.0.0/16" in block["except"] for block in blocks), name
    doors = [spec["ingress"] for name, spec in policies.items() if "operator" in name]
    assert [[port["port"] for rule in rules for port in rule["ports"]] for rules in doors] == [[8265]]


def test_the_metadata_of_gke_is_opened_by_hand_and_to_nodes_of_ray_alone() -> None:
    (policy,) = load(KUBERAY / "gke-metadata.yaml")
    kubernetes_validate.validate(policy, "1.33", strict=True)
    (nodes,) = (one for one in manifests("gpu") if one["metadata"]["name"] == "ray-nodes")
    assert policy["metadata"]["namespace"] == nodes["metadata"]["namespace"]
    assert policy["spec"]["podSelector"] == nodes["spec"]["podSelector"]
    doors = [(to["ipBlock"]["cidr"], rule["ports"]) for rule in policy["spec"]["egress"] for to in rule["to"]]
    assert doors == [
        ("169.254.169.252/32", [{"protocol": "TCP", "port": 988}]),
        ("169.254.169.254/32", [{"protocol": "TCP", "port": 80}]),
    ]
    assert not [one for overlay in OVERLAYS for one in manifests(overlay) if one["metadata"] == policy["metadata"]]


def test_schedules_have_a_time_zone_and_a_history() -> None:
    (ours,) = [one["spec"] for one in manifests("gpu") if one["kind"] == "RayCronJob"]
    (plain,) = [one["spec"] for one in manifests("gpu-before-1.6") if one["kind"] == "CronJob"]
    assert (ours["schedule"], ours["timeZone"]) == (plain["schedule"], plain["timeZone"]) == ("30 2 * * *", "Etc/UTC")
    assert plain["concurrencyPolicy"] == "Forbid"
    assert (plain["successfulJobsHistoryLimit"], plain["failedJobsHistoryLimit"]) == (3, 5)
    assert ours["jobTemplate"]["ttlSecondsAfterFinished"] == 86400
    job = next(one["spec"] for one in manifests("gpu") if one["metadata"]["name"] == "curate")
    assert ours["jobTemplate"]["entrypoint"] == job["entrypoint"]


def test_the_hook_reads_the_words_of_the_manifests(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, float]] = []
    monkeypatch.setattr(preemption, "stop_jobs", lambda address, seconds: asked.append((address, seconds)) or [])
    monkeypatch.setattr(preemption, "drain", lambda seconds, port: asked.append((str(port), seconds)) or True)
    for role in ("head", "worker"):
        assert preemption.main([role, "--seconds", "90"]) == 0
    assert asked == [("http://127.0.0.1:8265", 90.0), ("52365", 90.0)]


@pytest.fixture(scope="module")
def starter() -> ModuleType:
    path = KUBERAY / "overlays" / "gpu-before-1.6" / "start_rayjob.py"
    spec = importlib.util.spec_from_file_location("start_rayjob", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Server(http.server.BaseHTTPRequestHandler):
    """Kubernetes, as far as RayJobs of one namespace go."""

    jobs: dict[str, Manifest]
    numbers: Iterator[int]

    def do_GET(self) -> None:
        assert self.headers["Authorization"] == "Bearer of-the-pod"
        path, _, query = self.path.removeprefix("/apis/ray.io/v1/namespaces/tessera/rayjobs").partition("?")
        if path:
            return self.answer(self.jobs[path.strip("/")])
        wanted = query.removeprefix("labelSelector=tessera/started-from%3D")
        labels = [one["metadata"].get("labels", {}).get("tessera/started-from") for one in self.jobs.values()]
        found = [one for one, label in zip(self.jobs.values(), labels, strict=True) if label == wanted]
        return self.answer({"items": found})

    def do_POST(self) -> None:
        made = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        made["metadata"]["name"] = made["metadata"].pop("generateName") + str(next(self.numbers))
        self.jobs[made["metadata"]["name"]] = made
        self.answer(made)

    def do_DELETE(self) -> None:
        name = self.path.removeprefix("/apis/ray.io/v1/namespaces/tessera/rayjobs/")
        self.answer(self.jobs.pop(name))

    def answer(self, value: Any) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_plain_cron_job_starts_one_copy_at_a_time(starter: ModuleType, tmp_path: Path) -> None:
    curate = next(one for one in manifests("gpu-before-1.6") if one["metadata"]["name"] == "curate")
    Server.jobs, Server.numbers = {"curate": curate}, itertools.count(1)
    (tmp_path / "token").write_text("of-the-pod\n")
    (tmp_path / "namespace").write_text("tessera")
    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    kubernetes = starter.Kubernetes(f"http://127.0.0.1:{server.server_port}", tmp_path)
    try:
        assert starter.start("curate", kubernetes) == "started curate-1"
        assert starter.start("curate", kubernetes) == "curate-1 is on its way; nothing was started"
        Server.jobs["curate-1"]["status"] = {"jobDeploymentStatus": "Running"}
        assert "nothing was started" in starter.start("curate", kubernetes)
        Server.jobs["curate-1"]["status"] = {"jobDeploymentStatus": "Failed"}
        assert starter.start("curate", kubernetes) == "started curate-2, deleted curate-1"
        Server.jobs["curate-2"]["status"] = {"jobDeploymentStatus": "ValidationFailed"}
        assert starter.start("curate", kubernetes) == "started curate-3, deleted curate-2"
    finally:
        server.shutdown()
        server.server_close()
    assert Server.jobs.keys() == {"curate", "curate-3"}
    (role,) = (one for one in manifests("gpu-before-1.6") if one["kind"] == "Role")
    assert {*role["rules"][0]["verbs"]} == {"get", "list", "create", "delete"}, "what it asked of the server"
    made = Server.jobs["curate-3"]
    assert made["spec"] == {**curate["spec"], "suspend": False}
    assert curate["spec"]["suspend"] is True
