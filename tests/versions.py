"""Marks of tests that need what an older torch does not have; tima says so itself where a user asks for it."""

import pytest
import torch
import torch.distributed.fsdp as fsdp

spreads_weights = pytest.mark.skipif(
    not hasattr(getattr(fsdp, "FSDPModule", None), "set_force_sum_reduction_for_comms"), reason="this torch has no such FSDP2"
)
has_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
exports_any_length = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 5), reason="this torch records no text of any length"
)
