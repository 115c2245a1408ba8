"""The types of the names in `__init__.py`, where they are imported lazily."""

from advisors.advisor_sampler import AdvisorSampler as AdvisorSampler
from advisors.base import Advisor as Advisor
from advisors.base import Observation as Observation
from advisors.base import ObservationState as ObservationState
from advisors.bayesian import BayesianAdvisor as BayesianAdvisor
from advisors.errors import AdvisorError as AdvisorError
from advisors.errors import SpaceExhaustedError as SpaceExhaustedError
from advisors.evolution import EvolutionAdvisor as EvolutionAdvisor
from advisors.function import FunctionAdvisor as FunctionAdvisor
from advisors.function import SuggestFunction as SuggestFunction
from advisors.grid import GridAdvisor as GridAdvisor
from advisors.local_search import LocalSearchAdvisor as LocalSearchAdvisor
from advisors.random_search import RandomAdvisor as RandomAdvisor
from advisors.registry import (
    AdvisorSpec as AdvisorSpec,
)
from advisors.registry import (
    advisor_names as advisor_names,
)
from advisors.registry import (
    as_advisor as as_advisor,
)
from advisors.registry import (
    create_advisor as create_advisor,
)
from advisors.registry import (
    registered_name as registered_name,
)
from advisors.sampler import (
    SamplerAdvisor as SamplerAdvisor,
)
from advisors.sampler import (
    SamplerFactory as SamplerFactory,
)
from advisors.sampler import (
    TPEAdvisor as TPEAdvisor,
)
