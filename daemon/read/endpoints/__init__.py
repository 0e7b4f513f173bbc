"""The reads, a file for those of one answer: the type of the answer, the parameters, and how it is found."""
