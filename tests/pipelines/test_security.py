"""A job looks for switches that let data run code, for doors that stand open, and keeps its token to itself."""

import http.server
import logging
import os
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from ray.core.generated import ray_client_pb2, ray_client_pb2_grpc

from llava_core.errors import ConfigError
from pipelines import runtime, security

MESSAGES: Any = ray_client_pb2
SERVICE: Any = ray_client_pb2_grpc


@pytest.mark.parametrize("name", security.UNSAFE_SWITCHES)
def test_switches_that_let_data_run_code_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    security.check_environment({})
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigError, match=name):
        runtime.start_ray()


def test_ray_still_knows_these_switches() -> None:
    """A switch that Ray renames would pass unseen."""
    import ray

    source = Path(ray.__file__).parent / "data"
    texts = [path.read_text() for path in source.rglob("*.py") if "tests" not in path.parts]
    for name in security.UNSAFE_SWITCHES:
        assert any(name in text for text in texts), name


def test_the_policy_is_one_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(security.OPEN_CLUSTER, "ignore")
    with pytest.raises(ConfigError, match="TESSERA_OPEN_CLUSTER is 'ignore'; expected one of warn, refuse"):
        runtime.start_ray()


def test_the_token_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / ".ray" / "auth_token"
    security.keep_token_private(path, {"RAY_AUTH_TOKEN": "x"})
    assert not path.exists()
    security.keep_token_private(path, {})
    token = path.read_text()
    assert len(token) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    security.keep_token_private(path, {})
    assert (stat.S_IMODE(path.stat().st_mode), path.read_text()) == (0o600, token)


class Dashboard(http.server.BaseHTTPRequestHandler):
    """Lists jobs to anybody, or to those who show a token."""

    def do_GET(self) -> None:
        open_ = self.server.open  # type: ignore[attr-defined]
        shown = self.headers.get("Authorization") == "Bearer right"
        known = self.path == "/api/jobs/"
        self.send_response((200 if open_ or shown else 401) if known else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def dashboard() -> Iterator[http.server.HTTPServer]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Dashboard)
    server.open = False  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


class Client(SERVICE.RayletDriverServicer):  # type: ignore[misc]
    """Ray Client's server, as far as a ping goes."""

    def __init__(self) -> None:
        self.open = False

    def ClusterInfo(self, request: Any, context: Any) -> Any:
        assert request.type == MESSAGES.ClusterInfoType.PING
        if not self.open:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "Invalid or missing authentication token")
        return MESSAGES.ClusterInfoResponse(json="{}")


@pytest.fixture
def client() -> Iterator[tuple[Client, int]]:
    servant = Client()
    server = grpc.server(ThreadPoolExecutor(1), options=(("grpc.enable_http_proxy", 0),))
    SERVICE.add_RayletDriverServicer_to_server(servant, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servant, port
    server.stop(None)


@pytest.mark.parametrize(("shows", "answers"), [(True, False), (False, True), (True, True)])
def test_open_doors_are_named(
    shows: bool,
    answers: bool,
    dashboard: http.server.HTTPServer,
    client: tuple[Client, int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    servant, port = client
    places: dict[str, Any] = {"head": "127.0.0.1", "client_port": port}
    places["dashboard"] = f"127.0.0.1:{dashboard.server_port}"
    with caplog.at_level(logging.WARNING):
        security.check_cluster("refuse", **places)
    assert not caplog.messages, "both are closed"

    dashboard.open, servant.open = shows, answers  # type: ignore[attr-defined]
    with pytest.raises(ConfigError) as refusal:
        security.check_cluster("refuse", **places)
    assert (places["dashboard"] in str(refusal.value)) == shows
    assert (f"client port at 127.0.0.1:{port}" in str(refusal.value)) == answers
    with caplog.at_level(logging.WARNING):
        security.check_cluster("warn", **places)
    (message,) = caplog.messages
    assert "answer(s) without a token" in message
    assert "RAY_AUTH_MODE=token" in message


@pytest.mark.parametrize("policy", ["refuse", "warn"])
def test_a_job_looks_at_the_cluster_that_it_joins(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []

    def check(found: str, **places: Any) -> None:
        called.append((found, places))
        if found == "refuse":
            raise ConfigError("open")

    ray = SimpleNamespace(
        is_initialized=lambda: False,
        init=lambda **_: SimpleNamespace(dashboard_url="10.1.2.3:8265"),
        get_runtime_context=lambda: SimpleNamespace(gcs_address="10.1.2.3:6379"),
        shutdown=lambda: called.append("left"),
        nodes=lambda: [{"Alive": True, "Resources": {"CPU": 3.0}}],
    )
    monkeypatch.setattr(runtime, "ray", ray)
    monkeypatch.setattr(security, "check_cluster", check)
    monkeypatch.setenv(security.OPEN_CLUSTER, policy)
    places = {"head": "10.1.2.3", "dashboard": "10.1.2.3:8265"}
    if policy == "refuse":
        with pytest.raises(ConfigError, match="open"):
            runtime.start_ray("10.1.2.3:6379")
        assert called == [("refuse", places), "left"]
    else:
        assert runtime.start_ray("10.1.2.3:6379") == [runtime.Node(cpus=3.0)]
        assert called == [("warn", places)]


def test_doors_that_are_not_there_are_closed(dashboard: http.server.HTTPServer) -> None:
    gone = dashboard.server_port
    dashboard.shutdown()
    dashboard.server_close()
    assert not security.dashboard_is_open(f"127.0.0.1:{gone}")
    assert not security.client_is_open(f"127.0.0.1:{gone}")
    security.check_cluster("refuse", head="127.0.0.1", dashboard=None, client_port=gone)


def test_a_proxy_is_not_asked(dashboard: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    dashboard.open = True  # type: ignore[attr-defined]
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setitem(os.environ, name, "http://127.0.0.1:9")
    assert security.dashboard_is_open(f"127.0.0.1:{dashboard.server_port}")
