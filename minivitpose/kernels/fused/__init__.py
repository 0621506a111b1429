"""The layers as the fast engine runs them: several in one pass over memory, all threads walking through together."""
