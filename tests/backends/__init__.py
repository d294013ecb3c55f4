"""Real backends for the tests: install, start, describe and stop them.

`python -m backends test` is what `scripts/test` runs; `up` and `down` keep a set alive by hand.
All but `plugin` and `fixtures` use the standard library only, so that backends are provisioned while the
private environment is still being installed.
"""
