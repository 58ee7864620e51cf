"""Reports on runs: one self-contained HTML page, and the same table for a terminal, Markdown, CSV and LaTeX.

    from tima.report import report, markdown_table, terminal_table
    report(["runs/demo/original", "runs/demo/tecoa", "runs/demo/tima"], "runs/demo/report.html")

Everything shown is read from the runs' folders; nothing is evaluated again.
"""

from tima.report.formats import write_protocols, write_table
from tima.report.page import report
from tima.report.text_tables import markdown_table, terminal_table
from tima.report.watch import watch

__all__ = ["markdown_table", "report", "terminal_table", "watch", "write_protocols", "write_table"]
