"""The client of plugins/dbt_build_api.py, and the log files of the tasks that it marks."""

import json
import logging
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import certifi
import httpx
from airflow.sdk.configuration import conf
from airflow.sdk.log import load_remote_log_handler
from jinja2 import Template

from include.dbt_build.protocol import Answer, Report, sign, signing_key

TIMEOUT_SECONDS = 60

log = logging.getLogger(__name__)


class ReportError(Exception):
    """No API server with the plugin has accepted a report."""


class PluginClient:
    """Sends reports of one build task instance, with the TLS settings of Airflow's own client."""

    def __init__(self, ti):
        self.build_id = str(ti.id)
        self.key = signing_key(conf)
        self.urls = plugin_urls(self.build_id)
        self._http = httpx.Client(
            timeout=TIMEOUT_SECONDS, verify=ssl_context(), cert=_client_cert()
        )

    def __enter__(self) -> "PluginClient":
        return self

    def __exit__(self, *_) -> None:
        self._http.close()

    def send(self, report: Report) -> Answer:
        """Send a report and return the answer of the plugin.

        Raises:
            ReportError: the answer is not one of the plugin, whatever its status says.
        """
        if self.key is None:
            raise ReportError("set [dbt_build] signing_key or [core] fernet_key")
        body = report.model_dump_json().encode()
        headers = {
            "content-type": "application/json",
            "x-dbt-build-signature": sign(self.key, self.build_id, body),
        }
        errors = []
        for url in [*self.urls]:
            try:
                response = self._http.post(url, content=body, headers=headers)
                if response.status_code != 200:
                    raise ReportError(f"status {response.status_code}")
                # A proxy can answer 200 with a page of its own.
                answer = Answer.model_validate_json(response.content)
            except (httpx.HTTPError, ReportError, ValueError) as error:
                reason = str(error) if isinstance(error, ReportError) else type(error).__name__
                errors.append(f"{url}: {reason}")
            else:
                self.urls = [url]
                return answer
        raise ReportError("; ".join(errors))


def plugin_urls(build_id: str) -> list[str]:
    """Return where the plugin can be: beside the execution API, or at Airflow's base URL.

    An API server that was started with `--apps execution` has no plugins.
    """
    base = conf.get("api", "base_url", fallback=None) or "http://localhost:8080"
    server = conf.get("core", "execution_api_server_url", fallback=None) or base
    servers = [url.rstrip("/").removesuffix("/execution").rstrip("/") for url in (server, base)]
    return [f"{url}/dbt_build/{build_id}" for url in dict.fromkeys(servers)]


def ssl_context() -> ssl.SSLContext:
    """Return the certificates that Airflow's SDK trusts."""
    context = ssl.create_default_context(cafile=conf.get("api", "ssl_ca_file", fallback=None))
    if conf.getboolean("api", "client_use_public_certs", fallback=True):
        context.load_verify_locations(certifi.where())
    if certificate := conf.get("api", "ssl_cert", fallback=None):
        context.load_verify_locations(certificate)
    return context


def _client_cert() -> tuple[str, str] | None:
    certificate = conf.get("api", "client_ssl_cert", fallback=None)
    return (certificate, conf.get("api", "client_ssl_key")) if certificate else None


class TaskLogs:
    """Writes the logs of marked tasks where Airflow looks for them, in a thread of its own."""

    def __init__(self, ti):
        self.ti = ti
        self.folder = Path(conf.get("logging", "base_log_folder"))
        self.template = Template(conf.get("logging", "log_filename_template"))
        self._remote = load_remote_log_handler()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dbt-logs")

    def write(self, task_id: str, try_number: int, message: str, time: str) -> None:
        self._executor.submit(self._write, task_id, try_number, message, time)

    def close(self) -> None:
        self._executor.shutdown()

    def _write(self, task_id: str, try_number: int, message: str, time: str) -> None:
        ti = SimpleNamespace(
            dag_id=self.ti.dag_id,
            run_id=self.ti.run_id,
            task_id=task_id,
            map_index=-1,
            try_number=try_number,
        )
        name = self.template.render(ti=ti, try_number=try_number)
        file = self.folder / name
        lines = [
            json.dumps({"timestamp": time, "level": "info", "event": line})
            for line in message.splitlines()
        ]
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{line}\n" for line in lines))
            if self._remote:
                self._remote.upload(name, ti)
        except Exception as error:
            log.warning("The log of %s could not be written: %s", task_id, error)
