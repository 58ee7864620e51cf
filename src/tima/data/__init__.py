"""Pictures with labels: readers, the table of data sets, loaders."""

from tima.data.image_set import BadImage, Batch, ImageSet, check_class_names, check_templates, decode
from tima.data.table import find_data, known_sets

__all__ = ["BadImage", "Batch", "ImageSet", "check_class_names", "check_templates", "decode", "find_data", "known_sets"]
