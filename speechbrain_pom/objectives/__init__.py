"""What pretraining minimises: the contract of an objective, and one folder for each of them."""

from speechbrain_pom.objectives.objective import Draw, Objective, Outcome

__all__ = ["Draw", "Objective", "Outcome"]
