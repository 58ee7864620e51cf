"""Probes: what a robust zero-shot model does beyond top-1 accuracy on pictures of one class.

Each probe is one function that returns a `ProbeResult`; `write_probe` keeps it as JSON. Import them from their modules:
`retrieval.probe_retrieval`, `targeted.probe_targeted`, `text.probe_text`, `corrupted.probe_corruptions`.
"""

from tima.probes.record import ProbeResult, Row, read_probe, write_probe

__all__ = ["ProbeResult", "Row", "read_probe", "write_probe"]
