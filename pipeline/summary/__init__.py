"""The pages by which people read a run in GitHub Actions: one of the run, and one a job."""

from pipeline.summary.job import job_page
from pipeline.summary.run import run_page

__all__ = ["job_page", "run_page"]
