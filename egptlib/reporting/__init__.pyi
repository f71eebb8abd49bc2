from ._html import write_report as write_report
from ._lab import lab_command as lab_command
from ._notebooks import Job as Job
from ._notebooks import find_notebooks as find_notebooks
from ._notebooks import plan as plan
from ._paper import write_paper as write_paper
from ._runner import Outcome as Outcome
from ._runner import run_notebooks as run_notebooks
from ._runs import Run as Run
from ._runs import check_runs as check_runs
from ._runs import collect as collect
from ._runs import default_root as default_root
from ._runs import describe_environment as describe_environment
from ._runs import is_headless as is_headless
from ._runs import open_run as open_run
from ._runs import read_status as read_status
from ._runs import show_table as show_table
from ._stars import compare_runs as compare_runs
from ._stars import find_run as find_run
from ._stars import overview as overview
from ._stars import set_star as set_star
from ._sweep import differing as differing
from ._sweep import plan_sweep as plan_sweep
from ._sweep import read_grid as read_grid

__all__: list[str]
