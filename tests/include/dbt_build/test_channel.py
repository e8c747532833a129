"""The client of the plugin, with real servers that answer like the plugin and unlike it."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from include.dbt_build.channel import BuildEndedError, PluginClient, ReportError
from include.dbt_build.protocol import Answer, Report
from tests.conftest import free_port
from tests.include.dbt_build.certificates import write_certificate

TI = SimpleNamespace(id="0199c0de-0000-7000-8000-000000000000")
PAGE = "<html>Log in</html>"
ANSWER = Answer(applied={"a.run": 1}).model_dump_json()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append((self.path, body))
        status, text = self.server.answer
        self.send_response(status)
        self.send_header("location", "/login")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        """The output of the tests stays as it is."""


@contextmanager
def server(status: int, text: str, certificate: Path | None = None) -> Iterator:
    """Serve one answer to every request; yield the server, whose `url` has its address."""
    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.answer, served.received = (status, text), []
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        served.socket = context.wrap_socket(served.socket, server_side=True)
    scheme = "https" if certificate else "http"
    served.url = f"{scheme}://127.0.0.1:{served.server_port}"
    thread = Thread(target=served.serve_forever)
    thread.start()
    try:
        yield served
    finally:
        served.shutdown()
        thread.join()
        served.server_close()


@pytest.fixture
def settings(monkeypatch):
    """A function that sets the addresses of the API server."""

    def given(base_url: str, execution: str | None = None, **api: str) -> None:
        monkeypatch.setenv("AIRFLOW__DBT_BUILD__SIGNING_KEY", "a key")
        url = execution or f"{base_url}/execution/"
        monkeypatch.setenv("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", url)
        for name, value in {"base_url": base_url, **api}.items():
            monkeypatch.setenv(f"AIRFLOW__API__{name.upper()}", value)

    return given


def send() -> Answer:
    return PluginClient(TI).send(Report(others={"a.run": "scheduled"}))


def test_the_answer_of_the_plugin_is_read(settings):
    with server(200, ANSWER) as plugin:
        settings(plugin.url)
        assert send().applied == {"a.run": 1}
        assert [path for path, _ in plugin.received] == [f"/dbt_build/{TI.id}"]


@pytest.mark.parametrize("status", [200, 204, 302, 403, 500, 503])
@pytest.mark.parametrize("text", [PAGE, "{}", ""])
def test_nothing_but_the_answer_of_the_plugin_is_a_success(settings, status, text):
    with server(status, "" if status == 204 else text) as proxy:
        settings(proxy.url)
        with pytest.raises(ReportError, match=r"http://127\.0\.0\.1"):
            send()


def test_an_answer_with_another_status_is_no_success(settings):
    with server(503, ANSWER) as proxy:
        settings(proxy.url)
        with pytest.raises(ReportError, match="status 503"):
            send()


def test_a_build_task_that_airflow_has_ended_is_distinguished(settings):
    with server(409, '{"detail": "no such build task is running"}') as plugin:
        settings(plugin.url)
        with pytest.raises(BuildEndedError, match="no such build task is running"):
            send()


def test_a_server_that_cannot_be_reached_is_named(settings):
    port = free_port()
    settings(f"http://127.0.0.1:{port}")
    with pytest.raises(ReportError, match=f"127.0.0.1:{port}/dbt_build/{TI.id}: ConnectError"):
        send()


def test_a_base_url_that_is_no_url_is_named(settings):
    port = free_port()
    settings("http://airflow.example.org\n/airflow", f"http://127.0.0.1:{port}/execution/")
    with pytest.raises(ReportError, match="InvalidURL"):
        PluginClient(TI).send(Report())


def test_the_base_url_with_its_prefix_is_tried_if_the_execution_api_has_no_plugins(settings):
    with server(404, PAGE) as execution, server(200, ANSWER) as core:
        settings(f"{core.url}/team/airflow", f"{execution.url}/execution/")
        client = PluginClient(TI)
        assert client.send(Report()).applied == {"a.run": 1}
        client.send(Report())
        # The address that has answered is kept.
        assert len(execution.received) == 1
        assert [path for path, _ in core.received] == [f"/team/airflow/dbt_build/{TI.id}"] * 2


@pytest.fixture
def certificate(tmp_path) -> Path:
    return write_certificate(tmp_path)


@pytest.mark.parametrize("setting", ["ssl_cert", "ssl_ca_file"])
def test_a_private_authority_is_trusted_if_airflows_client_trusts_it(
    settings, certificate, setting
):
    with server(200, ANSWER, certificate) as plugin:
        settings(plugin.url)
        with pytest.raises(ReportError, match="ConnectError"):
            send()
        settings(plugin.url, **{setting: str(certificate)})
        assert send().applied == {"a.run": 1}
