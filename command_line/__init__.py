"""What every command shares: its terminal, its exit codes, its errors in one sentence.

Parsing of experiment files belongs in `settings`.
"""
