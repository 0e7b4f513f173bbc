"""Drills: rehearse on separate servers what an operator may have to do one day. Each step is checked."""
