"""The report says whether the attack survives a picture file, where the protocol asked."""

import json
from pathlib import Path

from test_report import Page, write_run

from tima.report import markdown_table, report
from tima.report.compare import compare
from tima.report.eight_bits import eight_bit_sentence
from tima.report.latex import latex
from tima.report.runs import read_runs

SHARES = {"cifar10": [0.5, 0.4, 0.3, 0.2, 0.1], "groceries": [0.5, 0.5, 0.3, 0.2, 0.1]}  # of 200 images: clean, 4 eps


def test_how_many_broken_images_survive_a_file_is_said_over_all_sets(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tima", "tima", SHARES)
    (comparison,) = compare(read_runs([run]))
    assert eight_bit_sentence(comparison) == "" and "8 bits" not in markdown_table([run])
    for path in (run / "results").glob("*.json"):
        record = json.loads(path.read_text())
        for row, still in zip(record["robust"], (0, 30, 50, 70), strict=True):
            row["broken_8bit"] = still
        path.write_text(json.dumps(record))
    comparisons = compare(read_runs([run]))
    # 100 right when clean in each set; broken up to each eps: 20 + 0, 40 + 40, 60 + 60, 80 + 80
    said = "0 of 20 at 1/255, 60 of 80 at 2/255, 100 of 120 at 4/255, 140 of 160 at 8/255."
    sentence = eight_bit_sentence(comparisons[0])
    assert sentence.startswith("Broken images that are still wrong when stored with 8 bits: ") and sentence.endswith(said)
    assert sentence in markdown_table([run]) and "60 of 80 at 2/255" in latex(comparisons)
    assert sentence in Page(report([run], tmp_path / "r.html")).text
