r"""The comparison as LaTeX tables with `booktabs` rules: accuracies in percent with 95 % intervals, best values bold."""

from tima.report.comparison import Block, Cell, Comparison
from tima.report.words import closing_sentences, percent, warnings_of

_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "⚠": r"$\dagger$", "–": "--", "−": "$-$", "·": r"\textperiodcentered{}", "±": r"$\pm$",  # noqa: RUF001
}  # fmt: skip


def latex(comparisons: list[Comparison]) -> str:
    r"""One `table` a protocol. It needs `\usepackage{booktabs}` and nothing else; every name is escaped."""
    if not comparisons:
        return "% No results yet.\n"
    notes = [f"% {escape(line)}\n" for line in warnings_of(comparisons, comparisons[0].runs)]
    return "".join([*notes, *(_table(comparison) for comparison in comparisons)])


def escape(text: str) -> str:
    """`text` so that LaTeX prints it as it is."""
    return "".join(_ESCAPES.get(letter, letter) for letter in " ".join(text.split()))


def _table(comparison: Comparison) -> str:
    columns = comparison.columns
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_caption(comparison)}}}",
        f"\\begin{{tabular}}{{ll{'r' * len(columns)}}}",
        "\\toprule",
        f"Data & Model & {' & '.join(escape(column) for column in columns)} \\\\",
    ]
    for block in comparison.blocks:
        lines += ["\\midrule", *_rows(comparison, block)]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}", ""])


def _rows(comparison: Comparison, block: Block) -> list[str]:
    rows = []
    for index, (run, row) in enumerate(zip(comparison.runs, block.cells, strict=True)):
        title = escape(block.title) if index == 0 else ""
        rows.append(f"{title} & {escape(run.name)} & {' & '.join(_cell(cell) for cell in row)} \\\\")
    return rows


def _cell(cell: Cell) -> str:
    if cell.value is None:
        return f"\\textit{{{escape(cell.note)}}}"
    value = f"\\textbf{{{percent(cell.value)}}}" if cell.best else percent(cell.value)
    mark = "$^\\dagger$" if cell.suspicious else ""
    return f"{value}{mark} {{\\scriptsize [{percent(cell.low)}, {percent(cell.high)}]}}"


def _caption(comparison: Comparison) -> str:
    text = "Accuracy in percent, clean and attacked at each eps, with 95 % intervals (Wilson; for averages normal). "
    text += f"Protocol {comparison.label}. {' '.join(closing_sentences(comparison))}"
    return escape(text.strip())
