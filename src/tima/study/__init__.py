"""Studies: many methods, seeds and sizes trained and judged alike, and a comparison that rests on stored results alone.

from tima.study import load_study, run_study, write_report
study = load_study("nano-quick")
run_study(study, "runs/study/nano-quick", workers=2)
write_report(["docs/study/nano-quick.json"], "docs/results.md")
"""

from tima.study.jobs import count_known
from tima.study.known import adopt
from tima.study.records import Store, read_store, write_store
from tima.study.report import write_report
from tima.study.run import Outcome, run_study
from tima.study.schema import Study, known_studies, load_study
from tima.study.store import collect

__all__ = [
    "Outcome",
    "Store",
    "Study",
    "adopt",
    "collect",
    "count_known",
    "known_studies",
    "load_study",
    "read_store",
    "run_study",
    "write_report",
    "write_store",
]
