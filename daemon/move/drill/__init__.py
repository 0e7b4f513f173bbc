"""Drills: what an operator may have to do one day, done now, on servers of its own, each step checked."""
