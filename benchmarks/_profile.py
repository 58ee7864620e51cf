"""Where an attack's time goes: shares of the processor time by kind of operation, from torch's profiler."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "mkldnn_linear", "convolution", "mkldnn_convolution"),
    "activation": ("gelu", "gelu_backward", "sigmoid", "sigmoid_backward", "silu", "threshold_backward", "relu", "clamp_min"),
    "layer norm": ("native_layer_norm", "native_layer_norm_backward"),
    "softmax": ("_softmax", "_softmax_backward_data", "_log_softmax", "_log_softmax_backward_data"),
    "copies": ("copy_", "cat", "clone", "index", "index_select", "fill_", "zero_", "slice_backward", "select_backward"),
    "sums and products of tensors": ("add", "add_", "mul", "mul_", "div", "sub", "sum"),
}


def time_shares(run: Callable[[int], Any]) -> dict[str, float]:
    """Share of each kind in one run; the first, which warms up, does not count."""
    run(0)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        run(0)
    kind_of = {f"aten::{name}": kind for kind, names in KINDS.items() for name in names}
    spent: dict[str, float] = defaultdict(float)
    for event in seen.key_averages():
        spent[kind_of.get(event.key, "all else")] += event.self_cpu_time_total
    total = sum(spent.values())
    return {kind: round(spent[kind] / total, 4) for kind in (*KINDS, "all else")}
