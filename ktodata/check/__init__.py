"""What an expert would look for before training.

finding    what a check says
look       one row as checks see it, and what a check is
repeats    contradictions, duplicates, near-duplicates
order      one-label runs, neighbours, class ratio
leaks      how easily the classes are told apart, and by what
texts      templates, open slots, special tokens, empty turns, personal data
lengths    token lengths
overlap    prompts shared with an evaluation set
run        all of it
show       a table, JSON, a page
"""

from ktodata.check.finding import Finding, Report
from ktodata.check.run import check

__all__ = ["Finding", "Report", "check"]
