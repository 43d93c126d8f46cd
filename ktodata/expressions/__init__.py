"""Conditions on the columns of a record, such as `outcome == 'none' and turns > 3`: safe to take from anybody.

language   what can be written, and how it becomes a function of a record
values     what its operations do with values, and which they refuse
"""

from ktodata.expressions.language import Expression
from ktodata.expressions.values import FUNCTIONS

__all__ = ["FUNCTIONS", "Expression"]
