"""Speed, memory and FLOP of a config on this machine, beside other kits in the same minutes; see `__main__`."""
