"""Attacks on the running daemon beside legitimate traffic: who is held up, for how long, and is every count exact?

    attacks.py   the attacks, a list one can read
    crowd.py     the attackers' connections: bytes on sockets, from any address of loopback
    legit.py     the legitimate senders: an even timetable of single events, each from an address of its own
    trial.py     one attack on a fresh system: calm, attack, after it; then the accounts
    figures.py   what a trial found, its bars, and the table in ops/SECURITY.md

`just attack` runs it, a minute for each attack. The tests here are the short form, which asserts answers and counts but
no time, and the requests that need no load: heads, smuggling, hostile ids.
"""
