"""The rows of the comparison: each case, the ways that run it, and how often."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Case:
    """A dbt project, and what is done with it."""

    name: str
    label: str
    # A generated project is named after its kind and its number of models.
    project: str
    # One `dbt build` runs for each of these selections, all at once. An empty one selects all.
    selections: tuple[str, ...] = ("",)
    # The project is built first; a run clears models and everything that depends on them.
    clears: bool = False
    # A model fails when it is built for the first time.
    retries: bool = False


@dataclass(frozen=True)
class Row:
    case: Case
    way: str
    # How often the project is deployed. Each deploy has one first run, then so many later runs.
    deploys: int = 1
    later: int = 0

    @property
    def name(self) -> str:
        return f"{self.case.name}/{self.way}"


SAMPLE = Case("sample", "The sample project with one day of flights", "nyc_flights")
MODELS_200 = Case("models_200", "200 models with a test each", "models_200")
MODELS_1000 = Case("models_1000", "1,000 models with a test each", "models_1000")
MODELS_3000 = Case("models_3000", "3,000 models with a test each", "models_3000")
RETRY = Case("retry_200", "One of 200 models fails and is retried", "flaky_200", retries=True)
CLEAR = Case("clear_200", "20 of 200 models cleared with their children", "models_200", clears=True)
HALVES = ("path:models/half_1", "path:models/half_2")
TWO_DAGS = Case("two_dags_200", "Two DAGs at once, 100 models each", "halves_200", HALVES)

PLAN = [
    *(Row(SAMPLE, way, 5, 1) for way in ("dbt", "shipped")),
    *(Row(SAMPLE, way, 3, 1) for way in ("celery", "pods", "bash")),
    Row(SAMPLE, "watcher", 2, 1),
    *(Row(SAMPLE, way, 1, 1) for way in ("cosmos_in_process", "cosmos_subprocess")),
    *(Row(MODELS_200, way, 5, 1) for way in ("dbt", "shipped", "celery")),
    Row(MODELS_200, "pods", 2, 1),
    *(Row(case, way, 1, 3) for case in (RETRY, CLEAR, TWO_DAGS) for way in ("dbt", "shipped")),
    *(Row(case, way, 1, 3) for case in (MODELS_1000, MODELS_3000) for way in ("dbt", "shipped")),
]
# What CI runs: every way except Celery, and every kind of case with fewer models.
MODELS_20 = Case("models_20", "20 models with a test each", "models_20")
OTHER_WAYS = ("dbt", "pods", "bash", "watcher", "cosmos_in_process", "cosmos_subprocess")
SMALLER = [replace(c, project=c.project.replace("200", "100")) for c in (RETRY, CLEAR, TWO_DAGS)]
QUICK = [
    *(Row(SAMPLE, way) for way in ("dbt", "shipped")),
    *(Row(MODELS_20, way) for way in OTHER_WAYS),
    *(Row(case, way) for case in SMALLER for way in ("dbt", "shipped")),
]
