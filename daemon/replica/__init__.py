"""MySQL: the columns that repeat the totals."""
