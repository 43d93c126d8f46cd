"""Reading and writing, format by suffix.

paths     paths as users type them
records   records as they come, lazily; JSON lines
json_files, csv_files, parquet_files
          records out of one open file
files     which reader a file needs
resolve   from SOURCE (stdin, file, folder, Hub id) to the files to read
rows      files that already hold rows
table     rows as columns
leftover  what killed runs leave
spill     tables too large for memory
together  files that take their places together
write     writers, the quarantine file
"""

from ktodata.io.files import SUFFIXES, suffix_of
from ktodata.io.paths import is_input, is_there, local_path, provenance
from ktodata.io.records import UNREADABLE, Raw
from ktodata.io.resolve import Part, chain_parts, find_parts, read_records
from ktodata.io.rows import iter_rows, read_rows
from ktodata.io.spill import Spill, no_room
from ktodata.io.table import Table, records_of, rows_of, table_of
from ktodata.io.together import STDOUT, Files, atomic_file
from ktodata.io.write import (
    WRITERS,
    Quarantine,
    check_makable,
    check_output,
    check_writable,
    room_beside,
    write_rows,
    write_tables,
)

__all__ = [
    "STDOUT",
    "SUFFIXES",
    "UNREADABLE",
    "WRITERS",
    "Files",
    "Part",
    "Quarantine",
    "Raw",
    "Spill",
    "Table",
    "atomic_file",
    "chain_parts",
    "check_makable",
    "check_output",
    "check_writable",
    "find_parts",
    "is_input",
    "is_there",
    "iter_rows",
    "local_path",
    "no_room",
    "provenance",
    "read_records",
    "read_rows",
    "records_of",
    "room_beside",
    "rows_of",
    "suffix_of",
    "table_of",
    "write_rows",
    "write_tables",
]
