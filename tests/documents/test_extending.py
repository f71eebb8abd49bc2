"""The document that says how to add things runs as it stands."""

import re
from pathlib import Path

import pytest

from egptlib.adapters import LEVELS, create_adapter, load_adapter, register, save_adapter
from egptlib.adapters._levels import CLASSES
from egptlib.adapters._settings import DEFAULTS


def test_every_block_runs(repository: Path, one_street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGPTLIB_DATA", str(one_street))
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (repository / "docs/extending.md").read_text(), re.DOTALL)
    names: dict[str, object] = {}
    try:
        for block in blocks:
            exec(compile(block, "extending.md", "exec"), names)
        assert len(blocks) == 5 and "LINEAR" in LEVELS
        adapter = create_adapter("LINEAR", hidden_size=16, drafter_size=8)
        folder = save_adapter(adapter, tmp_path / "adapter")
        assert type(load_adapter(folder)) is names["Linear"]
        with pytest.raises(ValueError, match="'LINEAR': there is one already"):
            register("LINEAR")
    finally:
        CLASSES.pop("LINEAR", None)
        DEFAULTS.pop("LINEAR", None)
    with pytest.raises(ValueError, match="or import the module that registers it"):
        load_adapter(folder)
    with pytest.raises(TypeError, match="colour"):
        register("PAINTED", colour="red")
