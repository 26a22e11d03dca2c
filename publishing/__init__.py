"""Publishing a run on the Hub: model card, snapshot, push. `python -m publishing RUN`.

Never imports `training`.
"""
