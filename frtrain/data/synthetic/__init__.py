"""Synthetic faces: the data set that frtrain carries within itself, drawn from integer seeds and needing no files.

A `Person` (`identity`) is drawn once per identity, `Conditions` (`conditions`) once per photograph; `scene` renders both
through a camera; `photograph` adds the camera's own flaws; `source` makes a labelled, cached source of aligned crops.
"""
