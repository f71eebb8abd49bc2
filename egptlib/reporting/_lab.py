"""JupyterLab as this repository starts it: on loopback, with a token, at the start page of the working copies."""

import os
import secrets
import socket
import sys
from pathlib import Path

from egptlib._paths import project_root

_CONFIG = Path(__file__).parent / "templates" / "lab"
_PORTS = 50  # tried one after the other


def lab_command(
    port: int = 8888, *, folder: Path, open_browser: bool = True, options: tuple[str, ...] = ()
) -> tuple[list[str], dict[str, str], str]:
    """Return the command that starts JupyterLab, the environment it is to have, and its address with the token.

    Only this machine can reach it, and only with the token, a new one each time unless JUPYTER_TOKEN names one: it
    is passed in the environment, since any user may read a command line. From elsewhere: an SSH tunnel to the port.
    Its files are those of the folder that `folder` is in: figures, data and README can be opened beside the notebooks.

    Args:
        port: first one tried; the next free one is taken.
        folder: with the notebooks and the README.md to start at; see `refresh_copies`.
        open_browser: open it on this screen.
        options: passed on to JupyterLab.

    Raises:
        OSError: none of 50 ports is free.
    """
    folder, port = folder.resolve(), _free_port(port)
    token = os.environ.get("JUPYTER_TOKEN") or secrets.token_urlsafe(24)
    config = [str(_CONFIG), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
    environment = {
        "JUPYTER_TOKEN": token,
        "JUPYTER_CONFIG_PATH": os.pathsep.join(config),
        "JUPYTER_PREFER_ENV_PATH": "1",  # this environment's kernel, not one in the user's home
    }
    start = f"/lab/tree/{folder.name}/README.md"
    # The committed notebooks are what `run` takes: they are edited elsewhere than in passing.
    hidden = ["__pycache__", "*.pyc", "*~", *["notebooks"] * (folder.parent == project_root())]
    command = [
        sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder.parent}", f"--LabApp.default_url={start}",
        f"--ContentsManager.hide_globs={hidden}", f"--ServerApp.open_browser={open_browser}", "--log-level=WARN",
    ]  # fmt: skip
    return [*command, *options], environment, f"http://127.0.0.1:{port}{start}?token={token}"


def _free_port(first: int) -> int:
    for port in range(first, min(first + _PORTS, 65_536)):
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port among the {_PORTS} from {first} on; name another with --port")
