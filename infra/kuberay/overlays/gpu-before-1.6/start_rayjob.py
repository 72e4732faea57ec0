"""Starts a copy of a sleeping RayJob, from inside a pod: what RayCronJob does, for operators that have none.

    python start_rayjob.py curate

While a copy made before is not at its end, nothing is started; those that are go when the next one starts. Standard
library only; the pod's own account needs get, list, create and delete on rayjobs.
"""

import json
import os
import ssl
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LABEL = "tessera/started-from"
ENDED = ("Complete", "Failed", "ValidationFailed")


class Kubernetes:
    """The cluster's RayJobs of one namespace.

    Args:
        url: of the API server.
        account: folder with `token`, `namespace` and, for https, `ca.crt`.
    """

    def __init__(self, url: str, account: Path = ACCOUNT) -> None:
        self._url = f"{url}/apis/ray.io/v1/namespaces/{(account / 'namespace').read_text().strip()}/rayjobs"
        self._token = (account / "token").read_text().strip()
        trusted = ssl.create_default_context(cafile=str(account / "ca.crt")) if url.startswith("https") else None
        handlers = [urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted)]
        self._opener = urllib.request.build_opener(*handlers)

    def ask(self, path: str = "", body: Mapping[str, Any] | None = None, method: str | None = None) -> dict[str, Any]:
        """GET, or POST a body, or do what is said."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        with self._opener.open(request, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


def copy_of(job: Mapping[str, Any]) -> dict[str, Any]:
    """A RayJob with another's spec, awake, under a name that the server chooses."""
    name = job["metadata"]["name"]
    return {
        "apiVersion": job["apiVersion"],
        "kind": job["kind"],
        "metadata": {"generateName": f"{name}-", "labels": {LABEL: name}},
        "spec": {**job["spec"], "suspend": False},
    }


def start(name: str, kubernetes: Kubernetes) -> str:
    """Start a copy of a RayJob unless one is on its way, delete those that ended, and say what was done."""
    found = kubernetes.ask(f"?labelSelector={LABEL}%3D{name}").get("items", [])
    at = {one["metadata"]["name"]: one.get("status", {}).get("jobDeploymentStatus") for one in found}
    busy = [copy for copy, status in at.items() if status not in ENDED]
    if busy:
        return f"{', '.join(busy)} is on its way; nothing was started"
    made = kubernetes.ask(body=copy_of(kubernetes.ask(f"/{name}")))
    for copy in at:
        kubernetes.ask(f"/{copy}", method="DELETE")
    return f"started {made['metadata']['name']}" + (f", deleted {', '.join(at)}" if at else "")


if __name__ == "__main__":
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    sys.stdout.write(start(sys.argv[1], Kubernetes(f"https://{host}:{port}")) + "\n")
