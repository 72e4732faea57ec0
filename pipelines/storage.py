"""Files by URI, on a local disk or an object store: open, join, look, read and write whole small files.

One source of credentials: `storage_options(uri)` collects the AWS_* variables on the driver into plain strings, in
the spelling that `deltalake` reads; `filesystem` turns the same strings into fsspec's. They travel to workers as
arguments, never in a `runtime_env`, whose values the cluster shows to anybody who can see its jobs.

What this does *not* do: list corpora (`corpus`), write tables (`parts`, `tables`).
"""

import json
import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from llava_core.errors import ConfigError

StorageOptions = Mapping[str, str]

_AWS_NAMES = {
    "AWS_ENDPOINT_URL": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "AWS_ACCESS_KEY_ID": ("AWS_ACCESS_KEY_ID",),
    "AWS_SECRET_ACCESS_KEY": ("AWS_SECRET_ACCESS_KEY",),
    "AWS_SESSION_TOKEN": ("AWS_SESSION_TOKEN",),
    "AWS_REGION": ("AWS_REGION", "AWS_DEFAULT_REGION"),
}
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_URL_PART = re.compile(rf"[#?]|{_ESCAPE.pattern}")
_CLIENT_CONFIG = {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 5, "mode": "standard"}}


def protocol(uri: str) -> str:
    """Return a URI's scheme: "file" for a plain path.

    >>> protocol("s3://bucket/key"), protocol("/data/out"), protocol("out")
    ('s3', 'file', 'file')
    """
    scheme, separator, _ = uri.partition("://")
    return scheme if separator else "file"


def is_local(uri: str) -> bool:
    """Say whether a URI is on this machine's file system."""
    return protocol(uri) in ("file", "local")


def local_path(uri: str) -> Path:
    """Return the path of a local URI, absolute.

    Raises:
        ConfigError: the URI is not local.
    """
    if not is_local(uri):
        raise ConfigError(f"{uri} is not on a local disk; expected a path or file://")
    return Path(uri.partition("://")[2] if "://" in uri else uri).expanduser().absolute()


def absolute_uri(uri: str) -> str:
    """Return what a worker in another folder finds the same place by.

    Raises:
        ConfigError: Delta would read the name as a URL and keep its log in another place than the files.

    Example:
        >>> absolute_uri("s3://bucket/corpus/"), absolute_uri("/data/corpus/")
        ('s3://bucket/corpus', '/data/corpus')
    """
    found = (_ESCAPE if is_local(uri) else _URL_PART).search(uri)
    if found:
        raise ConfigError(
            f"{uri} has {found[0]!r} in it, which Delta reads as a part of a URL: its log would lie in another place "
            "than the files; expected a folder without"
        )
    return str(local_path(uri)) if is_local(uri) else uri.rstrip("/")


def join_uri(uri: str, *parts: str) -> str:
    """Append parts to a URI, with one slash between.

    Raises:
        ConfigError: a part would leave the folder.

    >>> join_uri("s3://bucket/out/", "_run", "a.json")
    's3://bucket/out/_run/a.json'
    >>> join_uri("/data/out", "status=ok")
    '/data/out/status=ok'
    """
    for part in parts:
        if part.startswith("/") or ".." in part.split("/"):
            raise ConfigError(f"{part!r} leaves the folder {uri}; expected a name inside it")
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def storage_options(uri: str, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Collect what reaches a URI's store from the environment, in `deltalake`'s spelling.

    Args:
        uri: where the data is; local paths and stores other than S3 need nothing from here.
        environment: the variables; the process's own by default.

    Returns:
        AWS_* strings; empty for local URIs. Without keys, both clients look for a file of them, and for the machine's
        own role.

    >>> sorted(storage_options("s3://b/x", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_DEFAULT_REGION": "eu"}))
    ['AWS_ALLOW_HTTP', 'AWS_ENDPOINT_URL', 'AWS_FORCE_CREDENTIAL_LOAD', 'AWS_REGION']
    """
    if protocol(uri) not in ("s3", "s3a"):
        return {}
    environment = os.environ if environment is None else environment
    options: dict[str, str] = {}
    for name, variables in _AWS_NAMES.items():
        value = next((environment[variable] for variable in variables if environment.get(variable)), None)
        if value is not None:
            options[name] = value
    if options.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        options["AWS_ALLOW_HTTP"] = "true"
    if "AWS_ENDPOINT_URL" in options and "AWS_ACCESS_KEY_ID" not in options:
        # without it, deltalake looks for keys in files and roles only where the store is Amazon's own
        options["AWS_FORCE_CREDENTIAL_LOAD"] = "true"
    return options


def fsspec_options(uri: str, options: StorageOptions | None = None) -> dict[str, Any]:
    """Turn storage options into the keyword arguments of fsspec's file system for a URI.

    Args:
        uri: where the data is.
        options: as `storage_options` returns; None collects them now.
    """
    if protocol(uri) not in ("s3", "s3a"):
        return {}
    options = storage_options(uri) if options is None else options
    client = {"endpoint_url": options.get("AWS_ENDPOINT_URL"), "region_name": options.get("AWS_REGION")}
    return {
        "key": options.get("AWS_ACCESS_KEY_ID"),
        "secret": options.get("AWS_SECRET_ACCESS_KEY"),
        "token": options.get("AWS_SESSION_TOKEN"),
        "client_kwargs": {name: value for name, value in client.items() if value},
        "config_kwargs": _CLIENT_CONFIG,
        # A cached listing would hide what another writer has just put there.
        "use_listings_cache": False,
    }


def corpus_options(uri: str, options: StorageOptions | None, *others: str) -> dict[str, Any]:
    """Storage options as the corpus readers take them: fsspec's, without the listing cache that they switch off.

    Args:
        uri: where the corpus is.
        options: as `storage_options` returns; None collects them now.
        others: where its rows may point to; where the corpus is on a local disk, the first of them in a store decides.
    """
    place = next((one for one in (uri, *others) if not is_local(one)), uri)
    return {name: value for name, value in fsspec_options(place, options).items() if name != "use_listings_cache"}


def filesystem(uri: str, options: StorageOptions | None = None) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the fsspec file system of a URI, and the path in it.

    Raises:
        ConfigError: there is none for its scheme, or it is not installed.
    """
    if is_local(uri):
        return fsspec.filesystem("file"), str(local_path(uri))
    try:
        found: tuple[fsspec.AbstractFileSystem, str] = url_to_fs(uri, **fsspec_options(uri, options))
    except (ValueError, ImportError) as error:
        raise no_store(protocol(uri), error) from error
    return found


def no_store(scheme: str, error: Exception) -> ConfigError:
    """Make the error to raise where fsspec has no file system for a scheme; it says what brings one.

    Args:
        scheme: of a URI.
        error: fsspec's.
    """
    missing = scheme in ("gs", "gcs") and isinstance(error, ImportError)
    extra = "; this project's extra gcs brings it: pip install -c constraints.txt -e '.[gcs]'" if missing else ""
    return ConfigError(f"no store for {scheme}://: {error}{extra}")


def open_uri(uri: str, options: StorageOptions | None = None) -> Any:
    """Open a URI for reading: a seekable binary file that closes as a context manager.

    Raises:
        FileNotFoundError: nothing is there.
    """
    store, path = filesystem(uri, options)
    return store.open(path, "rb")


def exists(uri: str, options: StorageOptions | None = None) -> bool:
    """Say whether a file or folder is there."""
    store, path = filesystem(uri, options)
    return bool(store.exists(path))


def read_bytes(uri: str, options: StorageOptions | None = None) -> bytes:
    """Read a whole file.

    Raises:
        FileNotFoundError: nothing is there.
    """
    store, path = filesystem(uri, options)
    return bytes(store.cat_file(path))


def write_bytes(uri: str, data: bytes, options: StorageOptions | None = None) -> None:
    """Write a whole file so that readers see the old one or the new one, never a part."""
    if is_local(uri):
        _place(local_path(uri), data, once=False)
        return
    store, path = filesystem(uri, options)
    store.pipe_file(path, data)


def write_once(uri: str, data: bytes, options: StorageOptions | None = None) -> bool:
    """Write a whole file unless one is there already; of several writers exactly one wins.

    Returns:
        Whether this call wrote it.
    """
    try:
        if is_local(uri):
            _place(local_path(uri), data, once=True)
        else:
            store, path = filesystem(uri, options)
            store.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    return True


def read_json(uri: str, options: StorageOptions | None = None) -> Any:
    """Read a JSON file."""
    return json.loads(read_bytes(uri, options))


def write_json(uri: str, value: Any, options: StorageOptions | None = None) -> None:
    """Write a value as indented JSON with sorted keys, whole."""
    write_bytes(uri, json_bytes(value), options)


def write_json_once(uri: str, value: Any, options: StorageOptions | None = None) -> bool:
    """Write a value as JSON unless the file is there; return whether this call wrote it."""
    return write_once(uri, json_bytes(value), options)


def json_bytes(value: Any) -> bytes:
    """Encode a value as JSON for people: indented, keys sorted, no NaN, a newline at the end.

    >>> json_bytes({"b": 1, "a": "é"})
    b'{\\n  "a": "\\xc3\\xa9",\\n  "b": 1\\n}\\n'
    """
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _place(path: Path, data: bytes, *, once: bool) -> None:
    """Write beside, sync, then rename over (or link, which refuses where a file is)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if once:
            os.link(beside, path)
        else:
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
