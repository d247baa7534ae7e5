"""The command line: parse, call one library method, draw."""
