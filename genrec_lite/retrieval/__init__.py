"""From a query and a corpus to the items to recommend."""
