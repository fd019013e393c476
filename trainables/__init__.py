"""The methods under Ray Tune: one thin adapter per method, `TRAINABLE = ...`."""
