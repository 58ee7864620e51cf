"""Transformers' own picture processing of CLIP by Pillow, under whichever name its version has it."""

try:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
except ModuleNotFoundError:  # transformers 4
    from transformers import CLIPImageProcessor as CLIPImageProcessorPil

__all__ = ["CLIPImageProcessorPil"]
