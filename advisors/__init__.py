"""Who proposes the next architecture."""

from advisors.base import Advisor, Observation, ObservationState
from advisors.bayesian import BayesianAdvisor
from advisors.errors import AdvisorError, SpaceExhaustedError
from advisors.function import FunctionAdvisor, SuggestFunction
from advisors.grid import GridAdvisor
from advisors.random_search import RandomAdvisor
from advisors.registry import AdvisorSpec, advisor_names, as_advisor, create_advisor
from advisors.tpe import TPEAdvisor

__all__ = [
    "Advisor",
    "AdvisorError",
    "AdvisorSpec",
    "BayesianAdvisor",
    "FunctionAdvisor",
    "GridAdvisor",
    "Observation",
    "ObservationState",
    "RandomAdvisor",
    "SpaceExhaustedError",
    "SuggestFunction",
    "TPEAdvisor",
    "advisor_names",
    "as_advisor",
    "create_advisor",
]
