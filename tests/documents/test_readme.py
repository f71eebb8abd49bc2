"""What a newcomer reads is so: verbs, options, targets and parameters that are named exist, pages are linked."""

import json
import re
import shlex
import subprocess
import tomllib
from itertools import product
from pathlib import Path

import pytest
import yaml

import egptlib
from egptlib.reporting._notebooks import find_notebooks, notebook_parameters
from tests.test_cli_wrong_inputs import VERBS

PAGES = (
    "README.md", "CONTRIBUTING.md", "data/README.md", "notebooks/README.md", "docs/gpu.md", "docs/explain.md",
    "docs/extending.md", "docs/cluster.md", "docs/licences.md", "docs/ten_lines.md",
)  # fmt: skip


def _commands(text: str) -> list[list[str]]:
    """Words behind `egptlib`, of lines of code and of words set as code, without their comments."""
    lines = re.findall(r"^ {4}(?:python -m )?egptlib (.+)$", text, re.MULTILINE)
    lines += [line for block in re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.DOTALL)
              for line in re.findall(r"^egptlib (.+)$", block, re.MULTILINE)]  # fmt: skip
    lines += [" ".join(inline.split()) for inline in re.findall(r"`egptlib\s([^`]+)`", text)]
    return [shlex.split(re.sub(r"\s#.*| \||\.\.\.", " ", line)) for line in lines]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_names_a_verb_and_options_that_are_there(repository: Path, page: str) -> None:
    commands = _commands((repository / page).read_text(encoding="utf-8"))
    assert len(commands) > 20 or page != "README.md"
    for words in commands:
        name = next((n for n in (" ".join(words[:2]), words[0]) if n in VERBS), None)
        assert name or words in (["runs"], ["benchmark"], ["--help"]), words
        given = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
        if name:
            options = {o for p in VERBS[name].params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
            assert set(given) <= options, words


def test_the_grid_varies_what_notebooks_have(repository: Path) -> None:
    """And what changes something with the mini pair: gamma and the event images, never a threshold."""
    (block,) = re.findall(r"```yaml\n(.*?)```", (repository / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    grid = yaml.safe_load(block)
    assert set(grid["grid"]) == {"gamma", "event_views"} and len(list(product(*grid["grid"].values()))) <= 12
    for notebook in find_notebooks([f"{number:02d}" for number in grid["notebooks"]]):
        assert set(grid["grid"]) | set(grid["parameters"]) <= set(notebook_parameters(notebook))


def test_the_mini_pairs_figures_are_those_of_its_card_and_of_the_sample_report(repository: Path) -> None:
    text = " ".join((repository / "README.md").read_text(encoding="utf-8").split())
    card = json.loads((repository / "egptlib/models/mini/card.json").read_text())
    slots, heads = card["slots"], card["heads"]
    (told,) = re.findall(r"beat those of the same model with black frames by (\d+) points, averaged over nine", text)
    gains = [slot["target"] - slot["target_blind"] for slot in slots.values()]
    assert len(gains) == 9 and int(told) == round(100 * sum(gains) / 9)
    for words, slot, other in (
        (r"how the camera moves \(([\d.]+) against ([\d.]+) blind\)", "ego motion", "drafter_blind"),
        (r"what colour a vehicle has \(([\d.]+) against ([\d.]+)\)", "colour", "majority"),
    ):
        (found,) = re.findall(words, text)
        assert found == tuple(f"{slots[slot][who]:.2f}" for who in ("drafter", other))
    assert all(f'"mini-{head}"' in text for head in heads["trained"])
    for row, page in (
        (r"along its path \| ([\d.]+) %", "04_feature_acceptance"),
        (r"alone \| ([\d.]+) \|", "05_token_a"),
    ):
        (figure,) = re.findall(row, text)
        (report,) = (repository / "docs/report").glob(f"{page}*.html")
        assert re.search(rf"\b{re.escape(figure)}(%| tokens per)", report.read_text(encoding="utf-8")), figure


def test_the_midi_pairs_figures_are_those_of_its_card(repository: Path) -> None:
    text = " ".join((repository / "README.md").read_text(encoding="utf-8").split())
    card = json.loads((repository / "egptlib/models/midi/card.json").read_text())
    motion, rows = card["slots"]["ego motion"], {row["level"]: row for row in card["heads"]["rows"]}
    assert f"says of {card['train_scenes']:,} windows" in text
    assert f"ego motion it tells {motion['drafter']:.2f} right, blind {motion['drafter_blind']:.2f}" in text
    assert f"it is {card['language']['ratio']:.2f} times" in text
    head, own = (f"{rows[name]['mean_acceptance_length']:.2f}" for name in ("E3S", "drafter's own tokens"))
    assert f"gets {head} tokens a pass at gamma 5 where EventGPT gets {own} ({card['heads']['test_answers']} a" in text


def test_make_has_every_target_that_is_named(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^ {4}make ([a-z]+)", text, re.MULTILINE)) | set(re.findall(r"`make ([a-z]+)`", text))
    assert {"demo", "test", "lab"} <= targets
    assert targets <= set(re.findall(r"^([a-z]+):", (repository / "Makefile").read_text(), re.MULTILINE))


def test_what_is_tried_and_run_leaves_the_checkout_clean(repository: Path) -> None:
    places = ["lab/04_feature_acceptance.ipynb", "runs/x/out.ipynb", "data/streets/x.npy"]
    done = subprocess.run(["git", "check-ignore", *places], cwd=repository, capture_output=True, text=True, check=False)
    if done.returncode == 128:
        pytest.skip("not a checkout of git")
    assert done.stdout.split() == places


def test_the_sample_report_is_found_from_everywhere(repository: Path) -> None:
    for notebook in find_notebooks(()):
        assert f"docs/report/{notebook.stem}.html" in notebook.read_text(encoding="utf-8")
    for page in (repository / "docs/report").glob("0*.html"):
        assert 'href="glossary.html"' in page.read_text(encoding="utf-8")
    words = re.sub(r"<[^>]+>", " ", (repository / "docs/report/glossary.html").read_text(encoding="utf-8"))
    for word in ("L1, L2", "L3", "L4", "L5", "L6", "B1", "E3", "identity", "skip rule", "typical", "fuzzy", "deferral",
                 "T_p(1)", "path"):  # fmt: skip
        assert re.search(rf"(?<!\w){re.escape(word)}(?!\w)", words), word


def test_who_owns_what_is_told_on_one_page(repository: Path) -> None:
    licences, readme, data = (
        (repository / page).read_text(encoding="utf-8") for page in ("docs/licences.md", "README.md", "data/README.md")
    )
    assert all(name in licences for name in ("x264", "x265", "OpenCV", "Vicuna", "Llama 2", "DSEC", "bikes", "1906"))
    assert "dsec2021" in (repository / "papers/references.bib").read_text(encoding="utf-8") and "DSEC" in data
    cited = yaml.safe_load((repository / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert cited["version"] == egptlib.__version__ and cited["license"] == "Apache-2.0" == project["license"]
    assert "docs/licences.md" in readme and "CITATION.cff" in readme
