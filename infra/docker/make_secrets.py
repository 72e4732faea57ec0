"""Makes the secrets that compose.yaml hands to its containers; what is there already stays.

    python infra/docker/make_secrets.py [FOLDER]

The folder is its owner's alone (0700). The files in it can be read by any user, because a container's user is another
than the one who made them, and only through the folder can they be reached from outside.
"""

import json
import secrets
import sys
from pathlib import Path

KEY_ID = "tessera"


def make_secrets(folder: Path) -> list[str]:
    """Make what is missing, and return its names.

    Args:
        folder: made if it is missing; closed to everybody else.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    made = []
    if not (folder / "aws_credentials").exists() or not (folder / "store_config").exists():
        key = secrets.token_hex(32)
        credentials = {"accessKey": KEY_ID, "secretKey": key}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        config = {"identities": [{"name": KEY_ID, "credentials": [credentials], "actions": actions}]}
        made += [_write(folder / "store_config", json.dumps(config, indent=2) + "\n")]
        lines = ["[default]", f"aws_access_key_id = {KEY_ID}", f"aws_secret_access_key = {key}", ""]
        made += [_write(folder / "aws_credentials", "\n".join(lines))]
    for name in ("ray_token", "grafana_password"):
        if not (folder / name).exists():
            made.append(_write(folder / name, secrets.token_hex(32)))
    return made


def _write(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o644)
    return path.name


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "secrets"
    done = make_secrets(place)
    sys.stdout.write(f"{place}: made {', '.join(done)}\n" if done else f"{place}: nothing was missing\n")
