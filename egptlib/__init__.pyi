from .adapters import create_adapter as create_adapter
from .adapters import load_adapter as load_adapter
from .decoding import speculative_generate as speculative_generate
from .hidden_states import HiddenStates as HiddenStates
from .hidden_states import extract as extract
from .metrics import acceptance_metrics as acceptance_metrics
from .metrics import replay as replay
from .metrics import token_acceptance as token_acceptance
from .models import load_pair as load_pair
from .scenes import event_images as event_images
from .scenes import load_events as load_events
from .scenes import open_scenes as open_scenes
from .traces import Trace as Trace

__version__: str

__all__: list[str]
