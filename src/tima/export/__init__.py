"""A model of ours as other libraries load it: written aside, compared with ours, and named only when it agrees."""

from tima.export.hub import push_folder
from tima.export.run import export_model
from tima.export.targets import TARGETS

__all__ = ["TARGETS", "export_model", "push_folder"]
