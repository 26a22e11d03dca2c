"""Lists the named sources: `python -m data_prep.sources`."""

import argparse

from command_line.run import exit_on_user_error

from .table import SOURCES, HubDataset

if __name__ == "__main__":
    with exit_on_user_error("data_prep.sources", only_prints=True):
        argparse.ArgumentParser(prog="python -m data_prep.sources", description="List the named sources.").parse_args()
        for name, source in SOURCES.items():
            about = [source.about, f"{source.size}; {source.licence}"]
            if isinstance(source, HubDataset):
                about.append(f"{source.id}@{(source.revision or 'main')[:20]}, {source.text_field}")
            print(f"{name:18}{about[0]}", *(f"{'':18}{line}" for line in about[1:]), sep="\n")
