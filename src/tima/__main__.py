"""`python -m tima`, and `torchrun -m tima` for several processes."""

from tima.cli import main

main()
