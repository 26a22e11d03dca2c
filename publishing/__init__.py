"""A run on its way to the Hub: model card, snapshot, push. `python -m publishing RUN`.

Never imports `training`.
"""
