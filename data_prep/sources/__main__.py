"""Lists the named sources: `python -m data_prep.sources`."""

import argparse

from command_line.run import one_sentence

from .table import SOURCES, HubDataset

if __name__ == "__main__":
    with one_sentence("data_prep.sources", words_are_all=True):
        argparse.ArgumentParser(prog="python -m data_prep.sources", description="List the named sources.").parse_args()
        for name, source in SOURCES.items():
            about = [source.about, f"{source.size}; {source.licence}"]
            if isinstance(source, HubDataset):
                about.append(f"{source.id}@{(source.revision or 'main')[:20]}, {source.text_field}")
            print(f"{name:18}{about[0]}", *(f"{'':18}{line}" for line in about[1:]), sep="\n")
