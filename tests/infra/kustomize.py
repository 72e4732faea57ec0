"""A kustomization rendered, as far as ours go, so that manifests can be tested where no kustomize is installed.

Knows: resources, components, namespace, images, patches (JSON 6902, and strategic ones that delete), replacements of
whole fields, configMapGenerator of files. Anything else in a kustomization is refused, not ignored. A test holds it to
the real one where that is installed.
"""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]
LOCAL = "config.kubernetes.io/local-config"
CLUSTER_WIDE = {"Namespace"}
KNOWN = {
    *("apiVersion", "kind", "namespace", "resources", "components", "patches", "replacements", "images"),
    *("configMapGenerator", "generatorOptions"),
}


def render(folder: Path) -> list[Manifest]:
    """Manifests of a kustomization, in any order."""
    return _render(folder, [])


def load(path: Path) -> list[Manifest]:
    """Documents of a file."""
    return [one for one in yaml.load_all(path.read_text(), yaml.CSafeLoader) if one]


def _render(folder: Path, given: list[Manifest]) -> list[Manifest]:
    settings = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert settings.keys() <= KNOWN, f"{folder}: {settings.keys() - KNOWN}"
    found = list(given)
    for name in settings.get("resources", []):
        place = folder / name
        found += render(place) if place.is_dir() else load(place)
    for name in settings.get("components", []):
        found = _render(folder / name, found)
    for generator in settings.get("configMapGenerator", []):
        assert settings["generatorOptions"] == {"disableNameSuffixHash": True}
        data = {name: (folder / name).read_text() for name in generator["files"]}
        metadata = {"name": generator["name"]}
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    for patch in settings.get("patches", []):
        text = (folder / patch["path"]).read_text() if "path" in patch else patch["patch"]
        found = _patched(found, yaml.safe_load(text), patch.get("target"))
    for one in found if "namespace" in settings else ():
        if one["kind"] not in CLUSTER_WIDE:
            one["metadata"]["namespace"] = settings["namespace"]
    for image in settings.get("images", []):
        for container in _containers(found):
            if container.get("image", "").split(":")[0] == image["name"]:
                container["image"] = f"{image.get('newName', image['name'])}:{image['newTag']}"
    for replacement in settings.get("replacements", []):
        _replace(found, replacement)
    return [one for one in found if one["metadata"].get("annotations", {}).get(LOCAL) != "true"]


def _patched(found: list[Manifest], patch: Any, target: dict[str, str] | None) -> list[Manifest]:
    if isinstance(patch, dict):
        assert patch.get("$patch") == "delete", "strategic patches only delete"
        gone = (patch["kind"], patch["metadata"]["name"])
        left = [one for one in found if (one["kind"], one["metadata"]["name"]) != gone]
        assert len(left) == len(found) - 1, f"nothing named {gone}"
        return left
    assert target is not None
    chosen = [one for one in found if _selects(target, one)]
    assert chosen, f"{target} selects nothing"
    for one in chosen:
        for step in patch:
            _apply(one, step)
    return found


def _selects(target: dict[str, str], one: Manifest) -> bool:
    named = re.fullmatch(target.get("name", ".*"), one["metadata"]["name"])
    return one["kind"] == target["kind"] and named is not None


def _apply(one: Manifest, step: dict[str, Any]) -> None:
    *path, last = step["path"].strip("/").split("/")
    at: Any = one
    for word in path:
        at = at[int(word)] if isinstance(at, list) else at[word]
    value = copy.deepcopy(step["value"])
    if isinstance(at, list):
        assert (step["op"], last) == ("add", "-"), step
        at.append(value)
    else:
        assert step["op"] == "add" or last in at, f"nothing to replace at {step['path']}"
        at[last] = value


def _replace(found: list[Manifest], replacement: dict[str, Any]) -> None:
    source = replacement["source"]
    (giver,) = (one for one in found if _selects(source, one))
    for target in replacement["targets"]:
        for one in (one for one in found if _selects(target["select"], one)):
            for field in target["fieldPaths"]:
                *path, last = field.split(".")
                at: Any = one
                for word in path:
                    at = at[word]
                assert last in at or target["options"]["create"]
                at[last] = copy.deepcopy(giver[source["fieldPath"]])


def _containers(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, list):
        for one in node:
            yield from _containers(one)
    elif isinstance(node, dict):
        for name, value in node.items():
            if name in ("containers", "initContainers"):
                yield from value
            yield from _containers(value)
