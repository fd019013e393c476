"""The tables of the AMA paper, computed anew: every method searched, retrained and tested alike.

`tables` says what a table holds and what was published, `scales` what a training may cost, `plan`
makes searches of them, `run` carries them out, `outcome` reads what came out, and `write` prints it
beside the published figures.
"""
