"""JupyterLab as this repository starts it: on loopback, with a token, at the start page of the notebooks."""

import os
import secrets
import sys
from pathlib import Path

from egptlib.reporting._notebooks import notebook_folder

_CONFIG = Path(__file__).parent / "templates" / "lab"


def lab_command(
    port: int = 8888, *, folder: Path | None = None, open_browser: bool = True, options: tuple[str, ...] = ()
) -> tuple[list[str], dict[str, str]]:
    """Return the command that starts JupyterLab and the environment it is to have.

    Only this machine can reach it, and only with the token, a new one each time unless JUPYTER_TOKEN names one: it
    is passed in the environment, since any user may read a command line. From elsewhere: an SSH tunnel to the port.

    Args:
        port: first one tried; the next free one is taken.
        folder: with the notebooks and their README.md; default: those of the checkout or the wheel.
        open_browser: open it on this screen.
        options: passed on to JupyterLab.

    Raises:
        FileNotFoundError: `folder` has no start page.
    """
    folder = (folder or notebook_folder()).resolve()
    if not (folder / "README.md").is_file():
        raise FileNotFoundError(f"{folder}: no README.md to start at; run from a checkout")
    config = [str(_CONFIG), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
    environment = {
        "JUPYTER_TOKEN": os.environ.get("JUPYTER_TOKEN") or secrets.token_urlsafe(24),
        "JUPYTER_CONFIG_PATH": os.pathsep.join(config),
        "JUPYTER_PREFER_ENV_PATH": "1",  # this environment's kernel, not one in the user's home
    }
    command = [
        sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}",
        f"--ServerApp.root_dir={folder}", "--LabApp.default_url=/lab/tree/README.md",
        f"--ServerApp.open_browser={open_browser}",
    ]  # fmt: skip
    return [*command, *options], environment
