"""The commands of `socialtag`: each module adds some to the parser, and says what they do.

Rooms are imported inside their command, so that `socialtag --help` answers at once. A command takes the parsed command
line, calls one room, prints what it found, and returns the exit code.
"""
