"""The loss of Winter et al., 3.3: cross entropy and Dice, together.

Notation: B windows, S side in pixels, C classes, K channels: 1 for two classes, else C.
"""

from __future__ import annotations

import torch
from segmentation_models_pytorch.losses import DiceLoss
from torch.nn import functional


def loss(logits: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Binary cross entropy and Dice of class 1 for two classes, of softmax and all classes for more; a number.

    ``logits`` [B, K, S, S]; ``labels`` int64 [B, S, S], C where ignored, which counts for nothing. Dice is over the
    whole batch; classes that the batch does not have are left out of it.
    """
    logits = logits.float()
    if num_classes == 2:
        single = functional.binary_cross_entropy_with_logits(
            logits[:, 0], (labels == 1).to(logits.dtype), reduction="none"
        )
    else:
        single = functional.cross_entropy(logits, labels, ignore_index=num_classes, reduction="none")
    labelled = labels != num_classes
    entropy = single[labelled].sum() / labelled.sum().clamp(min=1)
    mode = "binary" if num_classes == 2 else "multiclass"
    dice = DiceLoss(mode, from_logits=True, ignore_index=num_classes)
    return entropy + dice(logits, labels)
