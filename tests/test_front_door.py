"""What `import egptlib` shows: few names, quickly, each with an example that runs as it stands."""

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import egptlib


def test_it_shows_a_dozen_names_and_loads_none() -> None:
    assert 10 <= len(dir(egptlib)) <= 15 and egptlib.__all__ == dir(egptlib)
    code = (
        "import sys, egptlib; print(sum(name.startswith('egptlib.') for name in sys.modules), 'torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["0", "False"]


@pytest.mark.parametrize("name", egptlib.__all__)
def test_its_example_runs(name: str, one_street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGPTLIB_DATA", str(one_street))
    monkeypatch.chdir(tmp_path)
    subject = getattr(egptlib, name)
    home = sys.modules[subject.__module__]
    (test,) = doctest.DocTestFinder(recurse=False).find(subject, name, module=home, globs=dict(vars(home)))
    assert test.examples, "no example"
    told: list[str] = []
    failed, _ = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(
        test, out=told.append
    )
    assert not failed, "".join(told)
