from . import cpu as cpu
from . import kv as kv
from . import load as load
from . import sched as sched
from . import transfer as transfer

def counters() -> dict[str, int]:
    """Live native resources by name; all zero when nothing is open."""
