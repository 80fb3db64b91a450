"""Import torchvision where its compiled operators do not load.

torchvision's wheel from the package index is built for CUDA; beside a CPU build of torch its library does not load,
and the import dies on `operator torchvision::nms does not exist` although nothing here calls that operator.
Declaring the two missing schemas lets the import pass: transforms, utils, datasets and models then work;
`torchvision.io.read_image` and `torchvision.ops.nms` stay out of reach.
"""

import importlib
import sys
from types import ModuleType

SCHEMAS = (
    "torchvision::nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
SYMPTOM = "operator torchvision::nms does not exist"


def import_torchvision() -> ModuleType:
    """torchvision, cured on exactly that error and only then; any other error is the caller's to see."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if SYMPTOM not in str(error):
            raise
    _declare_schemas()
    for name in list(sys.modules):
        if name.split(".")[0] == "torchvision":
            del sys.modules[name]  # half-imported by the failed attempt
    return importlib.import_module("torchvision")


def _declare_schemas() -> None:
    import torch

    for schema in SCHEMAS:
        name, signature = schema.split("(", 1)
        torch.library.define(name, f"({signature}")
