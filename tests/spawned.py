"""What tests of several processes on one machine share."""

import functools
import socket
from collections.abc import Callable
from typing import ParamSpec

import torch

P = ParamSpec("P")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def leaves(worker: Callable[P, None]) -> Callable[P, None]:
    """A process's work that parts from the others at its end, as the command does: gloo may abort a Python that ends before."""

    @functools.wraps(worker)
    def parting(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            worker(*args, **kwargs)
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()

    return parting
