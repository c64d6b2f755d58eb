"""The command line: parse, build the configuration, call. Nothing is computed here."""
