"""Synthetic faces: the data set that frtrain carries within itself, drawn from integer seeds and needing no files.

A `Person` (`identity`) is drawn once per identity, `Conditions` (`conditions`) once per photograph; `scene` renders both
through a camera; `photograph` adds the camera's own flaws; `source` makes a labelled, cached source of aligned crops.
"""

from frtrain.data.synthetic.conditions import draw_conditions
from frtrain.data.synthetic.identity import draw_person
from frtrain.data.synthetic.photograph import render_crop, render_photograph, write_photographs
from frtrain.data.synthetic.source import SyntheticFaces

__all__ = ["SyntheticFaces", "draw_conditions", "draw_person", "render_crop", "render_photograph", "write_photographs"]
