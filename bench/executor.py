"""An executor that starts a new process for each task, as KubernetesExecutor starts a pod."""

import sys
from subprocess import Popen

from airflow.executors.base_executor import BaseExecutor

# The command of a pod. It has imported nothing, unlike a process that LocalExecutor forks.
COMMAND = [sys.executable, "-m", "airflow.sdk.execution_time.execute_workload", "--json-string"]


class NewProcessExecutor(BaseExecutor):
    is_local = True

    def start(self) -> None:
        self.processes = {}

    def _process_workloads(self, workload_items) -> None:
        for workload in workload_items:
            del self.queued_tasks[workload.key]
            self.running.add(workload.key)
            self.processes[workload.key] = Popen([*COMMAND, workload.model_dump_json()])

    def sync(self) -> None:
        for key in [key for key, process in self.processes.items() if process.poll() is not None]:
            self.fail(key) if self.processes.pop(key).returncode else self.success(key)
