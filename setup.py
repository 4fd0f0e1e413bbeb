"""Package definition; the tool settings live in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

RUNTIME = [
    "tensorflow>=2.21,<2.22",
    "tf-keras>=2.21,<2.22",
    "tensorflow-recommenders>=0.7.7,<0.8",
    "apache-beam>=2.77,<2.78",
    "kafka-python>=3.0.12,<4",
    "numpy>=2",
    "pyarrow>=20",
    "scipy",
    "pydantic>=2.12",
    "pyyaml",
    "typer",
    "rich",
    "fastapi",
    "uvicorn",
    "prometheus-client",
    "implicit>=0.7.3",
    "plotly",
    "matplotlib",
    "jinja2",
    "tensorboard",
]

EXTRAS = {
    "cpu": ["faiss-cpu==1.15.1"],
    "gpu": ["faiss-gpu==1.15.1", "tensorflow[and-cuda]>=2.21,<2.22"],
    "dev": [
        "pytest",
        "pytest-timeout",
        "hypothesis",
        "httpx",
        "psutil",
        "ruff",
        "mypy",
        "types-PyYAML",
        "pandas",
        "polars",
    ],
}

setup(
    name="recsys-platform",
    version="0.1.0",
    description="The recommender platform that adapts while it serves",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.12",
    packages=find_packages(include=["recsys", "recsys.*", "streaming", "streaming.*", "serving", "serving.*"]),
    package_data={"recsys": ["**/*.html", "**/*.css", "**/*.j2", "**/*.yaml"]},
    install_requires=RUNTIME,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["recsys=recsys.cli:main"]},
)
