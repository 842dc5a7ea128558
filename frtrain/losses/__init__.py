"""Loss heads: each a page with its formula."""
