"""Writing labelled images as one pack: a folder, RecordIO or WebDataset shards. A killed call is gone on with."""

from frtrain.data.packs.target import PACK, Facts, read_facts
from frtrain.data.packs.writer import Kind, PackWriter, Shards, open_pack

__all__ = ["PACK", "Facts", "Kind", "PackWriter", "Shards", "open_pack", "read_facts"]
