"""Has the build find what is installed: packages, the modules beside this file, and the configurations; no tests."""

from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup

HERE = Path(__file__).resolve().parent

setup(
    packages=find_packages(exclude=["tests", "tests.*"]) + find_namespace_packages(include=["configs", "configs.*"]),
    py_modules=sorted(path.stem for path in HERE.glob("*.py") if path.stem != "setup"),
    package_data={"": ["*.yaml", "*.txt", "*.jsonl"]},
)
