"""What chapters need besides models: figures, live controls, records, source listings, checks."""

from genrec_lite.notebook import figures
from genrec_lite.notebook.explore import explore
from genrec_lite.notebook.record import load_record, read_records, record, write_record
from genrec_lite.notebook.source import show_source

__all__ = [
    "explore",
    "figures",
    "load_record",
    "read_records",
    "record",
    "show_source",
    "write_record",
]
