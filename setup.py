"""What pyproject.toml cannot say: folders of the checkout's root that lie inside the package once it is installed."""

from setuptools import find_namespace_packages, setup

# As yt8m_ray.config.shipped and yt8m_ray.data.samples look for them.
FOLDERS = {"yt8m_ray.configs": "configs", "yt8m_ray.samples": "samples"}

setup(
    packages=[*find_namespace_packages(include=["yt8m_ray", "yt8m_ray.*", "serve", "serve.*", "jobs"]), *FOLDERS],
    package_dir=FOLDERS,
)
