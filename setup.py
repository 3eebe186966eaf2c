"""hear_ptsed: pre-trained sound event detection transformers behind the HEAR API."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
EXTRAS = {
    # heareval and hearvalidator come beside this extra: see requirements.txt.
    "eval": [
        "click",
        "espeakng-loader",
        "h5py",
        "intervaltree",
        "matplotlib",
        "mido",
        "more-itertools",
        "music21",
        "nvidia-ml-py",
        "pandas<3",
        "python-slugify",
        "pytorch-lightning==1.9.5",
        "pyyaml",
        "scikit-learn",
        "scipy",
        "sed_eval",
        "sed_scores_eval>=0.0.4",
        "setuptools<82",
        "tensorboard",
        "torchinfo",
    ],
    "training": [
        "datasets",
        "h5py",
        "lightning>=2.6",
        "pandas<3",
        "pyyaml",
        "safetensors",
        "scikit-learn",
        "scipy",
        "sed_scores_eval>=0.0.4",
        "tensorboard",
    ],
    "corpus": ["pyarrow"],  # detect and embed into Parquet
    "ray": ["ray"],  # sweeps and corpora over many machines
    "hub": ["huggingface_hub>=1", "safetensors"],  # hear_ptsed.hub
    "leaderboards": ["jinja2", "plotly", "rich", "scikit-learn"],
    "figures": ["kaleido>=1"],  # charts of leaderboards as SVG and PDF; needs Chrome or Chromium
    "plot": ["matplotlib"],
    # hear_ptsed.export and hear_ptsed.runtime
    "onnx": ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.5"],
    "openvino": ["onnx>=1.17", "onnxscript>=0.5", "openvino>=2025"],
    # hear_ptsed.clients
    "xares": ["xares>=0.1.3"],
    "mteb": ["mteb>=2.26"],
    "docs": ["mkdocs-material>=9.6", "mkdocstrings[python]>=0.30", "ruff"],  # `make docs`
    "dev": [
        "axe-playwright-python",
        "hypothesis",
        "pip",
        "playwright",
        "pytest",
        "pytest-xdist",
        "ruff",
        "setuptools>=77",
    ],
}

setup(
    name="hear_ptsed",
    version=re.search(r'__version__ = "(.+)"', (ROOT / "hear_ptsed/__init__.py").read_text())[1],
    description=__doc__,
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="the hear_ptsed developers",
    license="MIT",
    # Source and Changelog join them when the project has a public address: docs/release.md.
    project_urls={
        "Paper": "https://arxiv.org/abs/2409.09546",
        "HEAR": "https://hearbenchmark.com",
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Sound/Audio :: Analysis",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["hear_ptsed*", "training*", "eval_tasks*", "leaderboards*"]),
    package_data={
        "hear_ptsed": ["facts/*.bib", "facts/*.csv", "labels/*.csv", "py.typed"],
        "training": ["published.csv", "recipes/*.yaml"],
        "eval_tasks": ["sounds/catalogue.toml"],
        "leaderboards": [
            "*.csv",
            "published/*.csv",
            "published/*.md",
            "templates/*",
            "static/*",
        ],
    },
    install_requires=[
        *("torch>=2.6", "torchaudio>=2.6"),
        *("filelock>=4.2", "numpy", "pydantic>=2.10", "soundfile", "soxr", "tqdm"),
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["hear-ptsed = hear_ptsed.cli:main"]},
)
