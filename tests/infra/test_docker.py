"""The image and the laptop's cluster, as far as they can be held to their words without an engine."""

import fnmatch
import http.server
import importlib.util
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from deltalake import DeltaTable
from packaging.version import Version
from s3fs import S3FileSystem

from pipelines import health, tables
from pipelines.storage import read_bytes, storage_options, write_json
from schemas.caption import CAPTION
from tests.infra.images import COMPOSE, DOCKERFILE, ROOT, Stage, services, stages, words
from tests.s3_fixture import S3Bucket, s3_bucket, s3_server

__all__ = ["s3_bucket", "s3_server"]

PINNED = re.compile(r"[a-z0-9./-]+:[A-Za-z0-9.-]+@sha256:[0-9a-f]{64}")
BUILD, RUN = stages(DOCKERFILE.read_text())


def lint(path: Path) -> str:
    found = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip("hadolint has a package for Linux on x86-64 only")
    done = subprocess.run([found, "--no-color", str(path)], capture_output=True, text=True)
    return done.stdout + done.stderr


def test_the_linter_finds_nothing_and_would() -> None:
    assert lint(DOCKERFILE) == ""


def test_the_linter_finds_what_is_planted(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    text = DOCKERFILE.read_text().replace("USER 10001:10001", "USER root")
    bad.write_text(text.replace("WORKDIR /app", "RUN cd /app"))
    said = lint(bad)
    assert "DL3002" in said
    assert "DL3003" in said


@pytest.mark.parametrize("stage", [BUILD, RUN], ids=lambda stage: stage.name)
def test_bases_are_pinned_by_digest_and_nothing_comes_by_url(stage: Stage) -> None:
    assert PINNED.fullmatch(stage.base)
    assert not stage.all("ADD")
    said = (*stage.all("ARG"), *stage.all("ENV"))
    assert not [line for line in said if re.search(r"SECRET|PASSWORD|AUTH_TOKEN", line)]


def test_the_image_runs_as_nobody_in_particular() -> None:
    (user,) = RUN.all("USER")
    assert all(int(number) >= 10000 for number in user.split(":"))
    assert [kind for kind, _ in RUN.instructions][-4:] == ["WORKDIR", "USER", "HEALTHCHECK", "CMD"]
    assert "RAY_AUTH_MODE=token" in RUN.all("ENV")[0]
    assert "TESSERA_OPEN_CLUSTER=refuse" in RUN.all("ENV")[0]


def test_every_package_is_held_to_the_constraints() -> None:
    installs = [part for run in BUILD.all("RUN") for part in re.split(r"&&|;;|;", run) if "pip install" in part]
    assert len(installs) == 3
    for one in installs:
        # torch's exact version is read from the same file
        assert "--constraint constraints.txt" in one or ("--no-deps" in one and '"$torch"' in one), one


def test_the_version_that_the_commands_give_is_one() -> None:
    for path in (DOCKERFILE, ROOT / "infra" / "README.md"):
        lines = [line for line in path.read_text().splitlines() if "docker build " in line]
        versions = [found for line in lines for found in re.findall(r"--build-arg VERSION=(\S+)", line)]
        assert len(versions) == len(lines) == 2, path
        # setuptools-scm takes nothing else
        assert [str(Version(one)) for one in versions] == versions


def test_what_is_copied_is_there_and_is_not_ignored() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {source for line in BUILD.all("COPY") for source in line.split()[:-1]}
    copied |= {source for line in RUN.all("COPY") if "--from" not in line for source in line.split()[:-1]}
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)


def test_the_image_holds_what_the_wheel_is_built_from() -> None:
    patterns = re.search(r"packages\.find\]\ninclude = \[(.*)\]", (ROOT / "pyproject.toml").read_text())
    assert patterns is not None
    wanted = [pattern.strip('" ') for pattern in patterns[1].split(",")]
    copied = {source for line in BUILD.all("COPY") for source in line.split()[:-1]}
    packages = {path.name for path in ROOT.iterdir() if any(fnmatch.fnmatch(path.name, one) for one in wanted)}
    assert {path for path in packages if (ROOT / path).is_dir() and not path.endswith("egg-info")} <= copied


def test_services_are_locked_down() -> None:
    for name, service in services().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"pids_limit", "mem_limit"} <= service.keys(), name
        assert "build" in service or re.fullmatch(r"\S+:v?\d+\.\d+\S*", service["image"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert not any("privileged" in key or key == "network_mode" for key in service), name


def test_no_service_starts_as_root() -> None:
    # with every capability dropped, an image that starts as root cannot become its own user: SeaweedFS' would
    users = {name: service.get("user", "of the image") for name, service in services().items()}
    assert users.pop("store") == "1000:1000", "seaweed, to whom the image gives /data"
    assert {name for name, user in users.items() if user == "of the image"} == {"prometheus", "grafana"}
    assert not [user for user in users.values() if user.startswith(("0", "root"))]


def test_the_cluster_asks_for_a_token_and_is_not_published() -> None:
    for name in ("head", "worker"):
        service = services()[name]
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
        assert service["networks"] == ["cluster"]
        assert "ports" not in service
        assert service["user"] == RUN.all("USER")[0]
    assert yaml.safe_load(COMPOSE.read_text())["networks"]["cluster"] == {"internal": True}


def ray_options(command: list[str]) -> dict[str, object]:
    from ray.scripts.scripts import start

    assert command[:2] == ["ray", "start"]
    return dict(start.make_context("start", list(command[2:])).params)


def test_what_the_nodes_run_is_what_ray_reads() -> None:
    head, worker = (ray_options(services()[name]["command"]) for name in ("head", "worker"))
    assert (head["head"], head["block"], worker["head"], worker["block"]) == (True, True, False, True)
    assert head["dashboard_host"] == "127.0.0.1"
    assert worker["address"] == f"head:{head['port']}"
    assert head["metrics_export_port"] == worker["metrics_export_port"] == 8080
    for name, options in (("head", head), ("worker", worker)):
        assert services()[name]["healthcheck"]["test"][1:] == ["python", "-m", "pipelines.health", "52365"]
        assert options["dashboard_agent_listen_port"] == health.AGENT_PORT == 52365


def test_the_command_of_the_image_is_a_job_of_it() -> None:
    (command,) = RUN.all("CMD")
    program, script, *rest = words(command)
    assert program == "python"
    assert (ROOT / script).is_file()
    assert script.startswith("jobs/")
    assert rest == ["--help"]


def test_every_file_that_is_mounted_is_there() -> None:
    for service in services().values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (COMPOSE.parent / source).exists(), source


@pytest.fixture(scope="module")
def make_secrets() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_secrets", ROOT / "infra" / "docker" / "make_secrets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_secrets_are_made_once_and_behind_a_closed_door(make_secrets: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    sources = yaml.safe_load(COMPOSE.read_text())["secrets"].values()
    named = {source["file"].removeprefix("secrets/") for source in sources}
    assert set(make_secrets.make_secrets(folder)) == named
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    before = {path.name: path.read_text() for path in folder.iterdir()}
    assert len(set(before.values())) == 4
    assert make_secrets.make_secrets(folder) == []
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    key = re.search("aws_secret_access_key = ([0-9a-f]{64})\n", before["aws_credentials"])
    assert key is not None
    assert key[1] in before["store_config"]
    # `ray job submit --working-dir .` sends this folder to the cluster
    assert "infra/" in (ROOT / ".rayignore").read_text().splitlines()
    ignored = subprocess.run(["git", "check-ignore", "-q", "infra/docker/secrets/ray_token"], cwd=ROOT)
    assert ignored.returncode in (0, 128), "128: not a repository"


def test_the_file_of_keys_is_what_both_clients_read(
    make_secrets: ModuleType, tmp_path: Path, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers get the keys as a file, never as variables: deltalake and s3fs have to find it by themselves."""
    make_secrets.make_secrets(tmp_path)
    environment = services()["head"]["environment"]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_REGION", environment["AWS_REGION"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_bucket.endpoint)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "nothing"))
    with pytest.raises(Exception, match=r"(?i)credential"):
        write_json(f"{s3_bucket.uri}/a.json", {})
    file = tmp_path / environment["AWS_SHARED_CREDENTIALS_FILE"].rpartition("/")[2]
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    S3FileSystem.clear_instance_cache()
    write_json(f"{s3_bucket.uri}/a.json", {"seen": 1})
    tables.create_table(f"{s3_bucket.uri}/table", CAPTION)
    assert DeltaTable(f"{s3_bucket.uri}/table", storage_options=storage_options(s3_bucket.uri)).version() == 0


def test_the_command_that_brings_photos_in_does(s3_bucket: S3Bucket, tmp_path: Path) -> None:
    loop = re.search(r"for photo in photos/\*; do\n.*?done\n", (ROOT / "infra" / "README.md").read_text(), re.DOTALL)
    assert loop is not None
    (tmp_path / "photos").mkdir()
    for name, data in (("a.jpg", b"\xff\xd8first"), ("b c.png", b"\x89PNGsecond")):
        (tmp_path / "photos" / name).write_bytes(data)
    inside = "docker() { shift 6; python() { " + shlex.quote(sys.executable) + ' "$@"; }; "$@"; }\n'
    command = inside + loop[0].replace("tessera/$photo", f"{s3_bucket.name}/$photo")
    keys = {"AWS_ENDPOINT_URL": s3_bucket.endpoint, "AWS_REGION": "us-east-1"}
    keys |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    subprocess.run(["bash", "-euc", command], cwd=tmp_path, env=os.environ | keys, check=True)
    assert read_bytes(f"{s3_bucket.uri}/photos/a.jpg", s3_bucket.delta_options) == b"\xff\xd8first"
    assert read_bytes(f"{s3_bucket.uri}/photos/b c.png", s3_bucket.delta_options) == b"\x89PNGsecond"


class Agent(http.server.BaseHTTPRequestHandler):
    """Answers as a node's agent does, with the status of its server."""

    def do_GET(self) -> None:
        ok = self.path == "/api/healthz"
        self.send_response(self.server.status if ok else 404)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def agent() -> Iterator[http.server.HTTPServer]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Agent)
    server.status = 200  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_health_is_what_the_agent_says(
    agent: http.server.HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = agent.server_port
    assert health.main([str(port)]) == 0
    agent.status = 503  # type: ignore[attr-defined]
    assert health.main([str(port)]) == 1
    monkeypatch.setattr(health, "AGENT_PORT", port)
    monkeypatch.setattr(health, "FIRST_PROCESS", tmp_path / "cmdline")
    (tmp_path / "cmdline").write_bytes(b"python\0jobs/train.py\0")
    assert health.main([]) == 0
    monkeypatch.setattr(health, "answers", lambda: False)
    assert health.main([]) == 0, "a job is healthy while it runs"
    (tmp_path / "cmdline").write_bytes(b"python\0/opt/tessera/bin/ray\0start\0--head\0")
    assert health.main([]) == 1


def test_health_without_an_agent(agent: http.server.HTTPServer) -> None:
    port = agent.server_port
    agent.shutdown()
    agent.server_close()
    assert health.main([str(port)]) == 1
