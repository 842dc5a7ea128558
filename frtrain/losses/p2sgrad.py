"""P2SGrad: the distance between cosines and a one-hot vector."""

from __future__ import annotations

from torch import Tensor

from frtrain.losses.base import LOSSES, Head, NoRow


@LOSSES.register("p2sgrad")
class P2SGrad(Head[NoRow]):
    """P2SGrad (Zhang, Zhao, Yan, Gao, Qiao, Wang, Li, CVPR 2019, arXiv 1905.02479).

        L = 1/2 sum_j ( cos(theta_j) - [j = y] )^2

    [j = y] is 1 for the own class, 0 for the others. The paper prescribes a gradient, sum_j (cos(theta_j) - [j = y])
    grad cos(theta_j), in place of that of softmax; this is the loss it belongs to. There is nothing to set: no scale,
    no margin.
    Known trouble: public code (pytorch-metric-learning, project-NN-Pytorch-scripts) takes the mean over the C classes
    of the square in place of half the sum, so its gradient is C/2 times smaller; a learning rate found with it has to
    be divided by that. A wrong class draws the embedding to a right angle from either side, at cos -0.3 as much as at
    0.3; with many more classes than dimensions nothing can be at a right angle to all, and their sum outweighs the
    own class.
    """

    geometry = "cosine"
    reduction = "sum"

    def __init__(self) -> None:
        super().__init__()

    def target(self, similarity: Tensor, row: NoRow) -> Tensor:
        """(cos(theta_y) - 1)^2 / 2, `[B] -> [B]`."""
        return (similarity - 1).square() / 2

    def others(self, similarity: Tensor, row: NoRow) -> Tensor:
        """cos(theta_j)^2 / 2, `[B, c] -> [B, c]`."""
        return similarity.square() / 2
