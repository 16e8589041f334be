"""The global optimum: reduce, start, solve, certify, lift."""
