"""The client of plugins/build_api.py, and the logs of tasks whose states the plugin sets."""

import json
import logging
import ssl
from concurrent.futures import ThreadPoolExecutor

import certifi
import httpx
from airflow.sdk.configuration import conf
from airflow.sdk.log import init_log_file, load_remote_log_handler
from jinja2 import Template

from include.dbt_build.protocol import Answer, Report, sign, signing_key

# A server that is there accepts a connection at once, but a large report takes time.
TIMEOUT = httpx.Timeout(60, connect=5)
# The length of a server's answer in a log line.
REASON_CHARACTERS = 200

log = logging.getLogger(__name__)


class ReportError(Exception):
    """No API server with the plugin has accepted a report."""


class BuildEndedError(ReportError):
    """Airflow has ended the build task, so it accepts no reports."""


class PluginClient:
    """Sends reports of one build task instance, with the TLS settings of Airflow's own client."""

    def __init__(self, ti):
        self.build_id = str(ti.id)
        self.key = signing_key(conf)
        self.urls = plugin_urls(self.build_id)
        self._ssl = ssl_context()

    def send(self, report: Report) -> Answer:
        """Send a report and return the answer of the plugin.

        Raises:
            BuildEndedError: the build task is not running in Airflow any more.
            ReportError: there is no signing key, or no URL returned an answer of the plugin.
        """
        if self.key is None:
            raise ReportError("set [dbt_build] signing_key or [core] fernet_key")
        body = report.model_dump_json().encode()
        headers = {
            "content-type": "application/json",
            "x-dbt-build-signature": sign(self.key, self.build_id, body),
        }
        errors = []
        for url in self.urls:
            try:
                response = httpx.post(
                    url, content=body, headers=headers, verify=self._ssl, timeout=TIMEOUT
                )
                # A proxy can answer 200 with a page of its own.
                answer = Answer.model_validate_json(response.raise_for_status().content)
            except httpx.HTTPStatusError as error:
                if error.response.status_code == httpx.codes.CONFLICT:
                    raise BuildEndedError(f"{url}: {error.response.text}") from None
                # A proxy can answer with a long page.
                reason = " ".join(error.response.text.split())[:REASON_CHARACTERS]
                errors.append(f"{url}: status {error.response.status_code} {reason}".rstrip())
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                errors.append(f"{url}: {type(error).__name__}")
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
    """Return the TLS settings of the client in Airflow's SDK."""
    context = ssl.create_default_context(cafile=conf.get("api", "ssl_ca_file", fallback=None))
    if conf.getboolean("api", "client_use_public_certs", fallback=True):
        context.load_verify_locations(certifi.where())
    if certificate := conf.get("api", "ssl_cert", fallback=None):
        context.load_verify_locations(certificate)
    if certificate := conf.get("api", "client_ssl_cert", fallback=None):
        context.load_cert_chain(certificate, conf.get("api", "client_ssl_key"))
    return context


class TaskLogs:
    """Writes the logs of tasks without a process where Airflow reads them, in its own threads."""

    def __init__(self, ti):
        self.ti = ti
        self.template = Template(conf.get("logging", "log_filename_template"))
        self._remote = load_remote_log_handler()
        # An upload takes about a tenth of a second, and the build task waits for all of them.
        self._executor = ThreadPoolExecutor(max_workers=8, thread_name_prefix="dbt-logs")

    def write(self, task_id: str, try_number: int, message: str, time: str) -> None:
        self._executor.submit(self._write, task_id, try_number, message, time)

    def close(self) -> None:
        self._executor.shutdown()

    def _write(self, task_id: str, try_number: int, message: str, time: str) -> None:
        lines = [
            json.dumps({"timestamp": time, "level": "info", "event": line})
            for line in message.splitlines()
        ]
        try:
            ti = self.ti.model_copy(update={"task_id": task_id, "try_number": try_number})
            name = self.template.render(ti=ti, try_number=try_number)
            init_log_file(name).write_text("".join(f"{line}\n" for line in lines))
            if self._remote:
                self._remote.upload(name, ti)
        except Exception as error:
            log.warning("The log of %s could not be written: %s", task_id, error)
