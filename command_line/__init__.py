"""What every command shares: robust output, exit codes, and errors in one sentence.

Parsing of experiment files belongs in `settings`.
"""
