"""A paper's numbers lead back to their runs, its fonts are embedded, and LaTeX takes all of it."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure
from pylatexenc.latexwalker import LatexEnvironmentNode, LatexWalker
from pypdf import PdfReader

from egptlib._paths import write_json
from egptlib.figures import DOUBLE_COLUMN, SINGLE_COLUMN
from egptlib.reporting import open_run
from egptlib.reporting._paper import escape, value_text, write_paper
from egptlib.reporting._stars import set_star


def _write_run(folder: Path, notebook: str, metrics: dict[str, Any], **parameters: Any) -> None:
    run = open_run(str(folder), notebook)
    for name, width in (("narrow", SINGLE_COLUMN * 1.35), ("wide", 5.0)):
        figure = Figure(figsize=(width, 2.0), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1])
        axes.set(xlabel="time (ms)", ylabel="share (%)")
        run.save_figure(name, figure)
    run.save_table("rates", pd.DataFrame({"name": ["a_b", "50 % & more", "▁the"], "rate_ms": [1 / 3, 2.0, None]}))
    run.save_table("appendix_old", pd.DataFrame({"x": [1]}))
    run.save_table("long", pd.DataFrame({"x": range(99)}))
    run.save_table("texts", pd.DataFrame({"x": ["word " * 99]}))
    run.save_results(**metrics)
    run.save_headline({"equal tokens": "91.1%"})
    write_json(folder / "params.json", {"dataset": "streets", **parameters})
    write_json(folder / "status.json", {"state": "done", "notebook": notebook, "seconds": 1.0, "started": "2026"})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    metrics = {
        "accept_85": 0.123456,
        "accept_8_5": 2.5,
        "count": 1234,
        "tiny": 1.5e-7,
        "kind": "x",
        "ok": True,
        "c": [1],
    }
    for gamma in (3, 5):
        _write_run(root / f"04_feature_acceptance-streets-{gamma}", "04_feature_acceptance", metrics, gamma=gamma)
    _write_run(root / "05_token_alignment-streets-x", "05_token_alignment", {"accept_85": -0.5})
    return root


def test_each_number_leads_back_to_its_run(root: Path, tmp_path: Path) -> None:
    main, counts = write_paper(root, tmp_path / "paper")
    assert counts == {"runs": 3, "figures": 6, "tables": 3, "numbers": 2 * 5 + 2}
    text = (main.parent / "numbers.tex").read_text()
    defined = dict(re.findall(r"^\\newcommand\{(\\[A-Za-z]+)\}\{(.*)\} % ", text, re.MULTILINE))
    content = json.loads((main.parent / "sources.json").read_text())
    sources = content["sources"]
    assert len(defined) == counts["numbers"] and set(defined) == {name for name in sources if name[0] == "\\"}
    for macro, shown in defined.items():
        source = sources[macro]
        value = json.loads((root / source["run"] / source["file"]).read_text())[source["name"]]
        assert value == source["value"] and shown == value_text(value)
    assert defined[r"\AcceptanceStreetsGammaThreeAcceptEightyFive"] == "0.1235"
    assert defined[r"\AcceptanceStreetsGammaThreeAcceptEightFive"] == "2.5"
    assert defined[r"\AcceptanceStreetsGammaFiveCount"] == "1{,}234"
    assert defined[r"\AlignmentStreetsEqualTokens"] == r"91.1\%"
    assert set(content["left_out"]) == {f"{run.name}/{n}.csv" for run in root.iterdir() for n in ("long", "texts")}


def test_figures_have_a_columns_width_and_carry_their_fonts(root: Path, tmp_path: Path) -> None:
    main, _ = write_paper(root, tmp_path / "paper")
    for name, width in (("narrow", SINGLE_COLUMN), ("wide", DOUBLE_COLUMN)):
        for path in main.parent.glob(f"figures/*-{name}.pdf"):
            page = PdfReader(path).pages[0]
            assert float(page.mediabox.width) == pytest.approx(72 * width, abs=0.01)
            fonts = [font.get_object() for font in page["/Resources"]["/Font"].values()]  # type: ignore[index]
            assert fonts
            for font in fonts:
                descendant = font["/DescendantFonts"][0].get_object() if "/DescendantFonts" in font else font
                assert "/FontFile2" in descendant["/FontDescriptor"]


def test_tables_are_booktabs(root: Path, tmp_path: Path) -> None:
    main, _ = write_paper(root, tmp_path / "paper")
    text = (main.parent / "tables/alignment-streets-rates.tex").read_text()
    assert [line for line in text.splitlines() if "rule" in line] == ["\\toprule", "\\midrule", "\\bottomrule"]
    assert "\\begin{tabular}{lr}" in text and "a\\_b & 0.333 \\\\" in text and "50 \\% \\& more & 2.000 \\\\" in text
    assert "\\textvisiblespace{}the & -- \\\\" in text and "rate (ms) \\\\" in text
    assert "Feature acceptance: narrow on streets, gamma 3. Run 04" in main.read_text()  # what varies is told
    assert "Token alignment: rates on streets. Run 05\\_token\\_alignment-streets-x." in main.read_text()


def test_starred_runs_only_and_an_earlier_export_is_replaced(root: Path, tmp_path: Path) -> None:
    write_paper(root, tmp_path / "paper")
    set_star(root / "05_token_alignment-streets-x", "")
    _, counts = write_paper(root, tmp_path / "paper", starred=True)
    assert counts["runs"] == 1 and len(list((tmp_path / "paper" / "figures").iterdir())) == 2
    set_star(root / "05_token_alignment-streets-x", None)
    with pytest.raises(FileNotFoundError, match="holds no starred run"):
        write_paper(root, tmp_path / "paper", starred=True)


def test_a_failed_run_does_not_hide_the_one_that_was_done(root: Path, tmp_path: Path) -> None:
    failed = root / "05_token_alignment-streets-y"
    write_json(failed / "params.json", {"dataset": "streets"})
    write_json(failed / "status.json", {"state": "failed", "notebook": "05_token_alignment", "started": "2027"})
    _, counts = write_paper(root, tmp_path / "paper")
    assert counts["runs"] == 3


def test_text_is_escaped() -> None:
    assert escape(r"a_b \ 5% {x} é 你") == r"a\_b \textbackslash{} 5\% \{x\} é U+4F60"
    assert value_text(1.5e-7) == r"$1.500 \times 10^{-7}$" and value_text(-0.5) == "$-0.5$"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_main_compiles(root: Path, tmp_path: Path) -> None:
    main, counts = write_paper(root, tmp_path / "paper")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    ended = subprocess.run(command, cwd=main.parent, capture_output=True, text=True, errors="replace", check=False)
    assert ended.returncode == 0, ended.stdout[-2000:]
    assert "Overfull \\hbox" not in ended.stdout
    text = " ".join(page.extract_text() for page in PdfReader(main.with_suffix(".pdf")).pages)
    for kind, name in (("Figure", "figures"), ("Table", "tables")):
        assert len(set(re.findall(rf"{kind} ?(\d+):", text))) == counts[name]


def test_main_is_well_formed_where_no_latex_is(root: Path, tmp_path: Path) -> None:
    """A parser of LaTeX reads every file to its end, and what they name is there."""
    main, counts = write_paper(root, tmp_path / "paper")
    files = {path: path.read_text(encoding="utf-8") for path in main.parent.rglob("*.tex")}
    assert len(files) == 2 + counts["tables"]
    for path, text in files.items():
        nodes, _, length = LatexWalker(text, tolerant_parsing=False).get_latex_nodes()
        assert length == len(text)
        for table in (n for n in nodes if n.isNodeType(LatexEnvironmentNode) and n.environmentname == "tabular"):
            rows = re.findall(r"^(.*) \\\\$", table.latex_verbatim(), re.MULTILINE)
            columns = re.search(r"tabular\}\{([lr]+)\}", table.latex_verbatim())
            assert columns and len(rows) > 1
            assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(columns[1])}, path.name
    named = re.findall(r"\\(?:input|includegraphics\[[^]]*\])\{([^}]*)\}", files[main])
    assert len(named) == 1 + counts["figures"] + counts["tables"]
    assert all((main.parent / (name if "." in name else f"{name}.tex")).is_file() for name in named)


def test_what_a_run_says_cannot_become_a_command(root: Path, tmp_path: Path) -> None:
    """Every line of numbers.tex is a comment or a definition of ours, and no text of the run's has a backslash left."""
    hostile = "x\n\\harmless{}\r\x85\u2028\\harmless"
    folder = root / "04_feature_acceptance-streets-3"
    write_json(folder / "environment.json", {"revision": hostile})
    write_json(folder / "headline.json", {hostile: hostile})
    write_json(folder / "metrics.json", {hostile: 1, "²": 2, "三": 3, "big": 1e300})
    (folder / "rates.csv").write_text("a\\harmless,b\n\\harmless,1\n")
    (folder / "figures" / "narrow.pdf").rename(folder / "figures" / "a}\\harmless{.pdf")
    folder.rename(root / "04_x\n\\harmless")
    main, _ = write_paper(root, tmp_path / "paper")
    for path in (main, main.parent / "numbers.tex", *main.parent.glob("tables/*.tex")):
        text = path.read_text(encoding="utf-8")
        assert "\\harmless" not in text and all(c == "\n" or c.isprintable() for c in text)
        if path.name == "numbers.tex":
            ours = re.compile(r"|% .*|\\newcommand\{\\[A-Za-z]+\}\{.*\} % .*")
            assert all(ours.fullmatch(line) for line in text.split("\n"))
    assert "textbackslash{}harmless" in (main.parent / "numbers.tex").read_text()
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", path.name) for path in main.parent.rglob("*.*"))


def test_damaged_files_and_links_are_left_out_by_name(root: Path, tmp_path: Path) -> None:
    folder = root / "05_token_alignment-streets-x"
    (folder / "empty.csv").write_text("")
    (folder / "figures" / "torn.pdf").write_bytes(b"%PDF-1.4 torn")
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n")
    (folder / "linked.csv").symlink_to(tmp_path / "secret.csv")
    (root / "04_feature_acceptance-streets-5" / "metrics.json").write_text('{"a": NaN}')
    told: list[str] = []
    main, counts = write_paper(root, tmp_path / "paper", tell=told.append)
    left_out = json.loads((main.parent / "sources.json").read_text())["left_out"]
    assert {f"{folder.name}/empty.csv", f"{folder.name}/figures/torn.pdf"} < left_out.keys()
    assert counts["runs"] == 2 and not list(main.parent.glob("tables/*linked*"))
    assert len(told) == 1 and "NaN is no JSON number" in told[0] and "metrics.json" in told[0]


def test_an_edited_main_stays_beside_the_new_one(root: Path, tmp_path: Path) -> None:
    main, _ = write_paper(root, tmp_path / "paper")
    main.write_text("my paper")
    told: list[str] = []
    write_paper(root, tmp_path / "paper", tell=told.append)
    assert main.read_text() == "my paper" and "documentclass" in main.with_name("main.new.tex").read_text()
    assert len(told) == 1 and "main.tex: edited by somebody" in told[0] and "main.new.tex" in told[0]
