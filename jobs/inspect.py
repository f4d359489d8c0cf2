from yt8m_ray.cli.main import run

if __name__ == "__main__":
    run("inspect")
