"""Whether the attack survives being stored as a picture, in words; of results whose protocol asked (`adversarial_8bit`)."""

from tima.report.comparison import Comparison, protocol_key, size_text


def eight_bit_sentence(comparison: Comparison) -> str:
    """For each run, how many broken images are still wrong with 256 levels, over all data sets; empty where nobody looked."""
    names = {block.title for block in comparison.data_sets}
    parts = []
    for run in comparison.runs:
        counts: dict[str, list[int]] = {}
        for record in (stored.record for stored in run.results):
            if record.dataset not in names or protocol_key(record.protocol) != protocol_key(comparison.protocol):
                continue
            for row in record.robust:
                if row.broken_8bit is not None:
                    total = counts.setdefault(size_text(row.eps, comparison.norm), [0, 0])
                    total[0] += row.broken_8bit
                    total[1] += record.clean.correct - row.correct
        said = ", ".join(f"{still:,} of {broken:,} at {eps}" for eps, (still, broken) in counts.items() if broken)
        parts += [f"{run.name} {said}"] if said else []
    return f"Broken images that are still wrong when stored with 8 bits: {'; '.join(parts)}." if parts else ""
