"""python -m yt8m_ray: the command `yt8m`."""

from yt8m_ray.cli.main import main

main()
