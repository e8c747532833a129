"""A run before the first that counts: an Airflow that has just started imports what it needs."""

from airflow.sdk import dag, task


@dag(schedule=None)
def warm_up():
    @task
    def one() -> int:
        return 1

    @task
    def two(number: int) -> None:
        print(number)

    two(one())


warm_up()
