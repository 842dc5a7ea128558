"""Sub-center ArcFace: several centres per identity, so that mislabelled faces can gather around one of their own."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Interval

from frtrain.losses.angular import BeyondPi, MarginGradient, Radians
from frtrain.losses.arcface import ArcFace
from frtrain.losses.base import LOSSES
from frtrain.schema import Positive

SubCentres = Annotated[int, Interval(ge=1, le=1000)]


@LOSSES.register("subcenter_arcface")
class SubCenterArcFace(ArcFace):
    """Sub-center ArcFace (Deng, Guo, Liu, Gong, Zafeiriou, ECCV 2020).

        cos(theta_j) = max_k <x, w_jk> / (|x| |w_jk|)            k = 1..K, for all classes j, before the margin
        T(theta_y) = cos(theta_y + m)                            the other classes: cos(theta_j)
        L = -log( exp(s T) / ( exp(s T) + sum_{j != y} exp(s cos theta_j) ) )

    w_jk sub-centre k of class j. Only the nearest sub-centre of a class gets a gradient. K = 1 is ArcFace.
    Defaults: K 3 and ArcFace's s 64, m 0.5 radians.
    Known trouble: the loss is half of the method. Afterwards the authors keep the dominant sub-centre of each identity,
    drop the faces that are more than 75 degrees from it, and train a plain ArcFace on the rest. Centres cost K times
    the memory. For the gradient and the rule beyond pi see ArcFace.

    Args:
        scale: s.
        margin: m in radians.
        sub_centres: K.
        beyond_pi: T where theta_y + m > pi.
        margin_gradient: gradient of T.
    """

    def __init__(
        self,
        scale: Positive,
        margin: Radians,
        sub_centres: SubCentres,
        beyond_pi: BeyondPi,
        margin_gradient: MarginGradient,
    ):
        super().__init__(scale, margin, beyond_pi, margin_gradient)
        self.centres_per_class = sub_centres
