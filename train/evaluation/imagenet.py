"""The prompts and class names that zero-shot figures are published with, from open_clip."""

from __future__ import annotations

from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES


def openai_templates() -> list[str]:
    """The 80 templates of CLIP (Radford et al., 2021), `{}` where the class name goes."""
    return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]


def imagenet_names() -> list[str]:
    """The 1,000 class names of ImageNet in the order of its sorted folders."""
    return list(IMAGENET_CLASSNAMES)
