"""Audits: what a model gives away, measured from the outside, against what is claimed.

A claim is an upper bound on epsilon, by way of a proof; an audit measures a lower bound, by way of
an attack. Where the lower exceeds the upper, the proof or the code is wrong.

Nothing is imported here: `estimators` needs numpy and scipy alone, and whoever turns scores into
bounds need not wait for torch.
"""
