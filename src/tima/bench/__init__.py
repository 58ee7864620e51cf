"""`tima bench`: what this machine can do, what a model asks for, and how near the real trainer comes.

Shapes: `B` images, `C` classes.
"""

from tima.bench.run import BenchSettings, bench
from tima.bench.towers import Shape, Tower, shape_of

__all__ = ["BenchSettings", "Shape", "Tower", "bench", "shape_of"]
