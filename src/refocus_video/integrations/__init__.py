"""Frame selection inside other people's programs."""
